"""DeepSpeed's own loss scaler of fp16 in the words of ours."""

from __future__ import annotations

from typing import Any

from adts_api.training import Precision
from adts_trainer.precision import LossScaler


class ZeroScaler(LossScaler):
    """Reads and restores the scale; DeepSpeed's step changes it, of one that is left out as of one that is taken.

    It counts iterations where we count good steps: `last_overflow_iter` is moved instead.
    """

    def __init__(self, spec: Precision, theirs: Any) -> None:
        self._theirs = theirs
        theirs.min_scale = 0.0  # theirs would stay at 1; from below 1 on an overflow is a divergence
        super().__init__(spec)

    @property
    def scale(self) -> float:
        """The present loss scale."""
        return float(self._theirs.cur_scale)

    @scale.setter
    def scale(self, value: float) -> None:
        self._theirs.cur_scale = value

    def overflowed(self) -> None:
        """DeepSpeed has seen it."""

    def stepped(self) -> None:
        """DeepSpeed has counted it."""

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        if self._active:
            good = self._theirs.cur_iter - self._theirs.last_overflow_iter - 1
            self._good_steps = good % self._interval or min(good, self._interval)  # it doubles one step later than ours
        return super().state()

    def restore(self, state: dict[str, float]) -> None:
        """Continue from `state()`, whoever wrote it."""
        super().restore(state)
        if self._active and state["active"]:
            self._theirs.last_overflow_iter = self._theirs.cur_iter - self._good_steps - 1
