"""What the launcher says about itself: a PodStatus from the heartbeats, and the same as Prometheus metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from adts_api.contract import TERMINATION_BYTES, exit_reason
from adts_api.pod_status import PodState, PodStatus
from adts_api.v1alpha1 import CheckpointStatus, CommunicationStatus, Progress, Restart
from adts_trainer.heartbeat import Heartbeat
from adts_trainer.launch.messages import Failure

NOT_YET_TRAINING = frozenset({"starting", "restoring"})
MAX_RESTARTS = 10


def rfc3339(seconds: float) -> str:
    """A Unix time as text, in milliseconds; empty for 0 and for what no calendar has."""
    try:
        text = datetime.fromtimestamp(round(seconds, 3), UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return ""
    return text.replace("+00:00", "Z") if seconds else ""


def finite(value: float | None) -> float | None:
    """The value, or None for what JSON cannot say."""
    return value if value is not None and math.isfinite(value) else None


def furthest(heartbeats: Iterable[Heartbeat]) -> Heartbeat | None:
    """The heartbeat that speaks for all: the lowest rank's among those of the most steps."""
    return max(heartbeats, key=lambda beat: beat.step, default=None)


def are_training(heartbeats: Sequence[Heartbeat], processes: int) -> bool:
    """Whether every process got past its start."""
    return len(heartbeats) == processes and all(beat.phase not in NOT_YET_TRAINING for beat in heartbeats)


def progress(beat: Heartbeat) -> Progress:
    """Training progress as a heartbeat tells it."""
    return Progress(
        step=beat.step,
        steps=beat.steps,
        loss=finite(beat.loss),
        evaluation_loss=finite(beat.evaluation_loss),
        tokens_per_second=finite(beat.tokens_per_second),
        mfu=finite(beat.mfu),
        eta_seconds=finite(beat.eta_seconds),
        at=rfc3339(beat.time),
    )


def checkpoint(beat: Heartbeat) -> CheckpointStatus:
    """The newest checkpoint as a heartbeat tells it."""
    return CheckpointStatus(step=beat.checkpoint_step, path=beat.checkpoint_path, at=beat.checkpoint_at)


def restart(failure: Failure, at: float) -> Restart:
    """A line of `status.restarts` for a round that ended with this failure, at a Unix time."""
    return Restart(
        time=rfc3339(at),
        scope="round",
        pod=failure.pod,
        node=failure.machine,
        exit_code=failure.exit_code,
        reason=exit_reason(failure.exit_code),
        message=failure.message,
    )


class Memory:
    """Keeps what heartbeats said, so that a round that just starts does not look like a loss of everything."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.checkpoint = CheckpointStatus()
        self.communication = CommunicationStatus()

    def take(self, heartbeats: Sequence[Heartbeat]) -> None:
        """Learns from the heartbeats of the current round."""
        beat = furthest(heartbeats)
        if beat is None:
            return
        if beat.phase not in NOT_YET_TRAINING:
            # What a round has not measured yet is told as it last was.
            told = progress(beat).model_dump(exclude_none=True)
            self.progress = self.progress.model_copy(update=told)
        if beat.checkpoint_step:
            self.checkpoint = checkpoint(beat)
        if beat.wire_bytes_per_step:
            self.communication = CommunicationStatus(
                wire_bytes_per_step=beat.wire_bytes_per_step,
                ratio=beat.compression_ratio if beat.compression_ratio is not None else 1.0,
                exposed_seconds=beat.exposed_seconds,
                hidden_seconds=beat.hidden_seconds,
            )


def termination_message(status: PodStatus) -> bytes:
    """The status as JSON that fits the kubelet's limit: messages cut as needed, at last without restarts."""
    for limit in (1000, 200, 100):
        restarts = [each.model_copy(update={"message": each.message[-limit:]}) for each in status.restarts]
        kept = restarts if limit > 100 else []
        status = status.model_copy(update={"message": status.message[-limit:], "restarts": kept})
        data = status.model_dump_json(by_alias=True).encode()
        if len(data) <= TERMINATION_BYTES:
            break
    return data


GAUGES: tuple[tuple[str, str], ...] = (
    ("step", "Optimizer steps done."),
    ("steps", "Optimizer steps of the whole job."),
    ("loss", "Training loss of the last logged step."),
    ("evaluation_loss", "Newest held-out loss."),
    ("tokens_per_second", "Tokens (samples for an mlp) per second of the whole job."),
    ("mfu", "Model FLOPs utilisation, 0 to 1."),
    ("eta_seconds", "Expected seconds to the last step."),
)


class _Metrics(Collector):
    """The status as gauges. The labels are the job's name and nothing that grows."""

    def __init__(self, job: str, status: PodStatus) -> None:
        self._job, self._status = job, status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, text in GAUGES:
            value = getattr(self._status.progress, name)
            if value is not None:
                yield self._gauge(name, text, value)
        yield self._gauge("round", "Round of the processes: restarts in place so far.", self._status.round)
        yield self._gauge("attempt", "Attempt of the pod.", self._status.attempt)
        yield self._gauge("checkpoint_step", "Step of the newest checkpoint.", self._status.checkpoint.step)
        traffic = self._status.communication
        yield self._gauge("wire_bytes_per_step", "Bytes one process sends per step.", traffic.wire_bytes_per_step)
        yield self._gauge("compression_ratio", "Uncompressed bytes over sent bytes, between replicas.", traffic.ratio)
        for name, value in (("exposed", traffic.exposed_seconds), ("hidden", traffic.hidden_seconds)):
            if value is not None:
                text = f"Seconds per step of {name} communication between replicas."
                yield self._gauge(f"communication_{name}_seconds", text, value)
        state = GaugeMetricFamily("adts_state", "1 for the state the pod is in.", labels=("job", "state"))
        for each in PodState.__args__:  # type: ignore[attr-defined]
            state.add_metric((self._job, each), float(self._status.state == each))
        yield state

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"adts_{name}", text, labels=("job",))
        family.add_metric((self._job,), value)
        return family


def metrics(job: str, status: PodStatus) -> bytes:
    """The status in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Metrics(job, status))
    return generate_latest(registry)
