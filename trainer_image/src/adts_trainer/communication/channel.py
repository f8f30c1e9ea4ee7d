"""Error feedback for one bucket: what a compressor leaves out of a step's sum is added to the next step's gradient.

Karimireddy et al., Error Feedback Fixes SignSGD and other Gradient Compression Schemes (1901.09847, algorithm 2), with
the residual in units of the gradient instead of the update. A step may be dropped after its gradients were summed (an
overflow of fp16 on one rank), so residuals wait for `commit`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adts_trainer.communication.compressor import Compressor, Summed
from adts_trainer.communication.two_stage import owned


class Channel:
    """Sums one bucket's gradients through a compressor. `reduce`, then `commit` or `drop`, once per step."""

    def __init__(self, compressor: Compressor, error_feedback: bool) -> None:
        self._compressor = compressor
        self._error_feedback = error_feedback
        self._pending: Summed | None = None
        self.residual: Tensor | None = None
        """[n] committed: what this rank's gradients still have to bring; None for nothing. Never changed in place."""
        self.owner_residual: Tensor | None = None
        """[ceil(n / W)] committed: what this rank left out of the sums of its part; None for nothing."""

    @property
    def compressor(self) -> Compressor:
        return self._compressor

    def reduce(self, gradient: Tensor, step: int) -> Tensor:
        """The sum of all ranks' gradients [n] and of what was missed before, as far as the compressor takes it: [n].

        NaN or infinity in one rank's vector makes the total NaN or infinite, on all ranks.
        """
        vector = gradient if self.residual is None else gradient + self.residual
        if not _is_finite(vector):
            # A compressor might hide it: sign(NaN) = -1, random-k may pick other entries.
            vector = torch.full_like(vector, torch.nan)
        summed = self._compressor.sum(vector, self.owner_residual, step)
        self._pending = summed
        return summed.total

    def commit(self) -> None:
        """The step was taken: what its sum missed is the residual now."""
        if self._pending is None:
            return
        if self._error_feedback:
            self.residual, self.owner_residual = self._pending.missed, self._pending.owner_missed
        self._compressor.commit()
        self._pending = None

    def drop(self) -> None:
        """The step was not taken: everything is as before it."""
        self._pending = None

    def replace(self, compressor: Compressor) -> None:
        """Go on with another compressor of the same bucket, between two steps. The residual goes into its next sum;
        where it has no owners, the owner's residual goes there as part of this rank's own."""
        self._compressor = compressor
        if self.owner_residual is None or compressor.has_owners:
            return
        n = sum(piece.shape.numel() for piece in compressor.pieces)
        own = owned(n, compressor.wire)
        residual = self.owner_residual.new_zeros(n) if self.residual is None else self.residual.clone()
        residual[own] += self.owner_residual[: own.stop - own.start]
        self.residual, self.owner_residual = residual, None


def _is_finite(vector: Tensor) -> bool:
    """Whether no entry is NaN or infinite, in one pass without a copy."""
    if not vector.numel():
        return True
    low, high = torch.aminmax(vector)
    return bool(torch.isfinite(low) & torch.isfinite(high))
