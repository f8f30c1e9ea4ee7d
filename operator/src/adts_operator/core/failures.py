"""Which pod's failure ended the attempt. DisruptionTarget comes before the exit code, the exit code before `Lost`."""

from __future__ import annotations

from dataclasses import dataclass

from adts_api.contract import ExitCode, exit_reason
from adts_api.v1alpha1 import DistributedTraining, Status
from adts_operator.core.names import pod_name
from adts_operator.core.observed import Gang, PodView
from adts_operator.core.times import to_seconds

START_DEADLINE_SECONDS = 600.0  # where the spec names none
SETTLE_SECONDS = 3.0  # a follower that only lost its peer often ends before the pod that caused it
DELETION_MARGIN_SECONDS = 5.0  # beyond its grace period a deleted pod is taken as lost: its node no longer answers
MESSAGE_LENGTH = 1024

LOST = "Lost"
DISRUPTED = "Disrupted"
START_DEADLINE = "StartDeadlineExceeded"
CONSEQUENCES = (ExitCode.PREEMPTED, ExitCode.START_TIMEOUT, ExitCode.LOST_PEER)
"""Codes that say little about the cause, the least telling last."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an attempt cannot go on."""

    pod: str
    node: str = ""
    exit_code: int | None = None
    reason: str
    """One word, as in `Restart.reason`."""
    output: str = ""
    """Last output of the pod, or why it never ran."""
    is_disruption: bool = False
    """The cluster took the pod away, or it was told to stop: not the job's fault."""
    settled_at: float = 0.0
    """Unix seconds until which a more telling failure of another pod may still turn up."""

    @property
    def summary(self) -> str:
        """One line for people: pod, node, exit code, reason."""
        where = f"{self.pod} on {self.node}" if self.node else self.pod
        if self.exit_code is None:
            return f"{where}: {self.reason}"
        return f"{where} exited with code {self.exit_code} ({self.reason})"

    @property
    def message(self) -> str:
        """The summary and the last kilobyte of output."""
        return f"{self.summary}\n{self.output[-MESSAGE_LENGTH:]}".strip()


def find_failure(job: DistributedTraining, status: Status, gang: Gang, now: float) -> Failure | None:
    """The most telling failure of the current attempt, the earliest of equals; None while nothing failed.

    A failure that only echoes another one is not settled for a while, as long as other pods still live.
    """
    failures = [_of_failed(pod) for pod in sorted(gang.failed, key=lambda pod: (pod.finished_at or 0.0, pod.index))]
    failures += [_of_lost(pod) for pod in gang.current if is_overdue(pod, now)]
    if status.workers.created:
        failures += [
            Failure(pod=pod_name(job.metadata.name, index, gang.attempt), reason=LOST) for index in gang.missing
        ]
    if not failures:
        return _start_deadline(job, status, gang, now)
    cause = min(failures, key=_weight)  # min is stable: the earliest of equally telling ones
    if cause.exit_code not in CONSEQUENCES or not any(pod.is_alive for pod in gang.current):
        return cause
    ended = min((pod.finished_at or now for pod in gang.failed), default=now)
    patience = SETTLE_SECONDS
    if cause.exit_code == ExitCode.PREEMPTED:  # the others agree on a step and save it
        patience = float(job.spec.run_policy.grace_period_seconds)
    return Failure(**{**vars(cause), "settled_at": ended + patience})


def start_deadline(job: DistributedTraining, status: Status, now: float) -> float:
    """Unix seconds by which every worker of the current attempt must run."""
    seconds = job.spec.run_policy.start_deadline_seconds or START_DEADLINE_SECONDS
    return to_seconds(status.not_before, now) + seconds


def is_overdue(pod: PodView, now: float) -> bool:
    """Whether a deleted pod lives on beyond its grace period: its node no longer answers."""
    return pod.is_alive and pod.gone_by is not None and now > pod.gone_by + DELETION_MARGIN_SECONDS


def _start_deadline(job: DistributedTraining, status: Status, gang: Gang, now: float) -> Failure | None:
    """The failure of a gang that does not come together: its pods hold devices that others may wait for."""
    if not (gang.pending or gang.missing) or now < start_deadline(job, status, now):
        return None
    if gang.pending:
        pod = gang.pending[0]
        waiting = f"{pod.reason}: {pod.message}".strip(": ")
        return Failure(pod=pod.name, node=pod.node, reason=START_DEADLINE, output=waiting)
    return Failure(pod=pod_name(job.metadata.name, gang.missing[0], gang.attempt), reason=START_DEADLINE)


def _of_failed(pod: PodView) -> Failure:
    reason = pod.reason or LOST
    if pod.reason == "OOMKilled":
        reason = exit_reason(ExitCode.OUT_OF_MEMORY)
    elif pod.exit_code is not None:
        reason = exit_reason(pod.exit_code)
    return Failure(
        pod=pod.name,
        node=pod.node,
        exit_code=pod.exit_code,
        reason=DISRUPTED if pod.disrupted else reason,
        output=pod.message,
        is_disruption=pod.disrupted or pod.exit_code == ExitCode.PREEMPTED,
    )


def _of_lost(pod: PodView) -> Failure:
    return Failure(
        pod=pod.name, node=pod.node, reason=DISRUPTED if pod.disrupted else LOST, is_disruption=pod.disrupted
    )


def _weight(failure: Failure) -> int:
    """Small for a failure that tells much."""
    if failure.reason == DISRUPTED:
        return 0
    if failure.exit_code in CONSEQUENCES:
        return (2, 4, 5)[CONSEQUENCES.index(ExitCode(failure.exit_code))]
    return 3 if failure.exit_code is None else 1  # a pod that is gone may have saved like those that say so
