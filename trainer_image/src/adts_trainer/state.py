"""Where a training stands, apart from the tensors: what a checkpoint's manifest keeps of the loop."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from adts_trainer.divergence import SPIKE_WINDOW


@dataclass
class TrainState:
    """Mutable state of the loop, equal on all ranks."""

    step: int = 0
    """Optimizer steps done, those left out included."""
    consumed: int = 0
    """Samples seen by the whole job: the global position of the next step."""
    skipped: set[int] = field(default_factory=set)
    """Steps whose update was left out by the divergence policy."""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=SPIKE_WINDOW))
    """Losses of the last steps that were applied; kept only where loss spikes are looked for."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {
            "step": self.step,
            "consumedSamples": self.consumed,
            "skippedSteps": sorted(self.skipped),
            "recentLosses": list(self.recent),
        }

    def restore(self, raw: dict[str, Any]) -> None:
        """Continue from `to_json()`. Steps known here to be left out stay so: a rollback must not forget its cause."""
        self.step, self.consumed = raw["step"], raw["consumedSamples"]
        self.skipped |= set(raw["skippedSteps"])
        self.recent.clear()
        self.recent.extend(raw["recentLosses"])
