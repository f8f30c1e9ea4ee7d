"""Number formats of the computation, and the loss scaler of fp16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

from adts_api import training

_COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
_LARGEST_SCALE = 2.0**24


@dataclass(frozen=True)
class Formats:
    """Formats of one run."""

    master: torch.dtype
    """Parameters, gradients and optimizer state: fp32, or fp64 with fp64."""
    compute: torch.dtype
    """Forward and backward."""

    @property
    def is_mixed(self) -> bool:
        return self.master != self.compute

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Context of a forward pass whose parameters are kept in `master`."""
        return torch.autocast(device.type, self.compute) if self.is_mixed else nullcontext()

    def sharding_policy(self) -> MixedPrecisionPolicy:
        """Parameters are gathered in `compute`, gradients are reduced in `master`."""
        if not self.is_mixed:
            return MixedPrecisionPolicy()
        return MixedPrecisionPolicy(param_dtype=self.compute, reduce_dtype=self.master)


def formats(spec: training.Precision) -> Formats:
    """The formats that `spec.precision.dtype` asks for."""
    compute = _COMPUTE[spec.dtype]
    return Formats(torch.float64 if compute == torch.float64 else torch.float32, compute)


class LossScaler:
    """Dynamic loss scale of fp16 (1710.03740, section 3.2): halved at an overflow, doubled after `interval` good steps.

    An overflow is a gradient norm over the whole job that is not finite, which every rank sees alike, so that the
    scales never part. For other formats the scale is 1 and stays.
    """

    def __init__(self, spec: training.Precision) -> None:
        self._active = spec.dtype == "fp16"
        self._interval = spec.loss_scale_interval
        self.scale = spec.initial_loss_scale if self._active else 1.0
        self._good_steps = 0

    @property
    def absorbs_overflow(self) -> bool:
        """Whether a smaller scale may still cure an overflow; below 1 it is a divergence."""
        return self._active and self.scale >= 1.0

    def overflowed(self) -> None:
        """Halve the scale; the step is dropped."""
        self.scale, self._good_steps = self.scale / 2, 0

    def stepped(self) -> None:
        """Count a good step."""
        if not self._active:
            return
        self._good_steps += 1
        if self._good_steps >= self._interval:
            self.scale, self._good_steps = min(self.scale * 2, _LARGEST_SCALE), 0

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"active": self._active, "scale": self.scale, "goodSteps": self._good_steps}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from `state()`. Another format than the one that was saved starts its own scale."""
        if self._active and state["active"]:
            self.scale, self._good_steps = state["scale"], int(state["goodSteps"])
