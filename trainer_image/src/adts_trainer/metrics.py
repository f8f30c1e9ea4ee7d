"""What a run says of itself: a log line, a line of metrics.jsonl, TensorBoard events and the heartbeat."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from adts_api.v1alpha1 import Spec
from adts_trainer.communication.reducer import Traffic
from adts_trainer.context import RankContext
from adts_trainer.data.files import storage_error
from adts_trainer.divergence import Verdict
from adts_trainer.heartbeat import HeartbeatWriter
from adts_trainer.state import TrainState
from adts_trainer.step import StepResult

FILE_NAME = "metrics.jsonl"

_PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
}
"""Dense half-precision FLOP/s by a part of the device's name, from the vendors' data sheets; the first match counts."""


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """Peak FLOP/s of a device in bf16 or fp16; None where it is not known or another format is used."""
    if device.type != "cuda" or dtype not in ("bf16", "fp16"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK_FLOPS.items() if part in name), None)


class Metrics:
    """Records steps. Every rank keeps its heartbeat; only the lead writes files and log lines."""

    def __init__(
        self,
        spec: Spec,
        context: RankContext,
        heartbeat: HeartbeatWriter,
        *,
        tokens_per_sample: int,
        flops_per_sample: float,
        peak: float | None,
        wire_bytes: int,
        traffic: Callable[[], Traffic | None],
    ) -> None:
        self._spec, self._is_lead, self._heartbeat = spec, context.is_lead, heartbeat
        self._folder = Path(spec.checkpoint.path)
        self._tokens_per_step = tokens_per_sample * spec.training.global_batch_size
        self._flops_per_token = flops_per_sample / tokens_per_sample
        self._peak = peak * context.world_size if peak else None
        self._wire_bytes, self._traffic = wire_bytes, traffic
        self._seen: list[Traffic] = []
        self._unit = "tokens" if tokens_per_sample > 1 else "samples"
        self._since: tuple[float, int] = (0.0, 0)
        self._tensorboard: Any = None
        heartbeat.update(steps=spec.training.steps, wire_bytes_per_step=wire_bytes)

    def start(self, step: int) -> None:
        """Begin, or begin again, after `step` steps: what an earlier run wrote about later ones is dropped."""
        self._since = (time.perf_counter(), step)
        if not self._is_lead:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            truncate(self._folder / FILE_NAME, step)
        except OSError as error:
            raise storage_error(self._folder / FILE_NAME, error) from error
        if self._spec.training.tensorboard:
            self._open_tensorboard(step)

    def wants_loss(self, step: int) -> bool:
        """Whether the step after `step` steps is one to log: every `logEverySteps`-th, the first and the last."""
        done = step + 1
        return done == 1 or done % self._spec.training.log_every_steps == 0 or done == self._spec.training.steps

    def record(self, state: TrainState, result: StepResult) -> None:
        """Tell of a step that was just done."""
        undone = result.verdict in (Verdict.STOP, Verdict.ROLLBACK)
        traffic = self._traffic()
        if traffic is not None:
            self._seen.append(traffic)
        if result.problem:
            self.say(f"step {state.step + undone}: {result.problem}; {result.verdict.name.lower()}")
        if result.loss is None or undone:
            self._heartbeat.update(step=state.step)
            return
        now, (then, step) = time.perf_counter(), self._since
        seconds = (now - then) / max(1, state.step - step)
        self._since = (now, state.step)
        speed = self._tokens_per_step / seconds
        mfu = speed * self._flops_per_token / self._peak if self._peak else None
        remaining = (self._spec.training.steps - state.step) * seconds
        communication = self._communication()
        self._heartbeat.update(
            step=state.step,
            loss=_finite(result.loss),
            tokens_per_second=speed,
            mfu=mfu,
            eta_seconds=remaining,
            **communication,
        )
        if self._is_lead:
            self._write_step(state.step, result, seconds, speed, mfu, communication)

    def record_evaluation(self, step: int, loss: float) -> None:
        """Tell of a held-out loss."""
        self._heartbeat.update(force=True, evaluation_loss=loss)
        if self._is_lead:
            self._append({"step": step, "evaluation_loss": loss})
            self.say(f"step {step}/{self._spec.training.steps}  held-out loss {loss:.4f}")
            self._plot(step, {"evaluation/loss": loss})
        self.pause()

    def pause(self) -> None:
        """Leave out of the speed what was not a step: call after an evaluation or a save."""
        self._since = (time.perf_counter(), self._heartbeat.current.step)

    def say(self, line: str) -> None:
        """Print a line on the lead."""
        if self._is_lead:
            print(line, flush=True)

    def close(self) -> None:
        """Write what is buffered."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _communication(self) -> dict[str, Any]:
        """Of the steps since the last time: bytes of the last of them, mean seconds of all."""
        seen, self._seen = self._seen, []
        if not seen:
            return {"wire_bytes_per_step": self._wire_bytes}
        last = seen[-1]
        return {
            "wire_bytes_per_step": self._wire_bytes + last.sent_bytes,
            "compression_ratio": last.exact_bytes / last.sent_bytes if last.sent_bytes else 1.0,
            "exposed_seconds": sum(it.exposed_seconds for it in seen) / len(seen),
            "hidden_seconds": sum(it.hidden_seconds for it in seen) / len(seen),
        }

    def _write_step(
        self,
        step: int,
        result: StepResult,
        seconds: float,
        speed: float,
        mfu: float | None,
        communication: dict[str, Any],
    ) -> None:
        self._append(
            {
                "step": step,
                "loss": _finite(result.loss),
                "gradient_norm": _finite(result.gradient_norm),
                "learning_rate": result.learning_rate,
                "tokens_per_second": speed,
                "mfu": mfu,
                "seconds": seconds,
                **communication,
                "samples_digest": result.digest,
                "time": time.time(),
            }
        )
        share = f"  mfu {mfu:.1%}" if mfu else ""
        self.say(
            f"step {step}/{self._spec.training.steps}  loss {result.loss:.4f}  lr {result.learning_rate:.1e}  "
            f"norm {result.gradient_norm:.2f}  {_short(speed)} {self._unit}/s{share}"
        )
        self._plot(
            step,
            {
                "training/loss": result.loss,
                "training/gradient_norm": result.gradient_norm,
                "training/learning_rate": result.learning_rate,
                f"speed/{self._unit}_per_second": speed,
                **{f"communication/{name}": value for name, value in communication.items()},
            },
        )

    def _append(self, record: dict[str, Any]) -> None:
        path = self._folder / FILE_NAME
        try:
            with path.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
        except OSError as error:
            raise storage_error(path, error) from error

    def _open_tensorboard(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # imports protobuf: not where nobody asked for it

        self.close()
        self._tensorboard = SummaryWriter(str(self._folder / "tensorboard"), purge_step=step + 1)

    def _plot(self, step: int, values: dict[str, float | None]) -> None:
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)


def truncate(path: Path, step: int) -> None:
    """Drop the lines of a metrics file that tell of steps after `step`, and a line cut short by a crash."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def _finite(number: float | None) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return number if number is not None and math.isfinite(number) else None


def _short(number: float) -> str:
    """12345 as 12.3k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.1f}"
