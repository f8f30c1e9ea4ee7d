"""The plain sum: the compressor that leaves nothing out, and the yardstick of all others."""

from __future__ import annotations

from torch import Tensor

from adts_trainer.communication.compressor import Compressor, Summed


class Exact(Compressor):
    """One all-reduce in the vector's own dtype."""

    def sum(self, vector: Tensor, owner_residual: Tensor | None, step: int) -> Summed:
        """See `Compressor.sum`; nothing is missed but the rounding of the additions."""
        total = vector.clone()
        self.wire.all_reduce(total)
        return Summed(total)
