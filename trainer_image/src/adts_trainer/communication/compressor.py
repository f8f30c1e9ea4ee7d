"""What a gradient compressor is: it sums vectors of all ranks in fewer bytes and says what it left out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adts_trainer.communication.wire import Wire


@dataclass(frozen=True)
class Piece:
    """One parameter's entries, or some rows of them, in a bucket's flat vector."""

    name: str
    """Of the parameter in the whole model; with `@row` behind it for rows from that one on."""
    shape: torch.Size
    """Of the piece; its entries follow those of the piece before it."""


@dataclass(frozen=True)
class Summed:
    """What became of one bucket. Σ over ranks of (missed + owner_missed) + total = Σ of the vectors that came in."""

    total: Tensor
    """[n], the same bits on every rank."""
    missed: Tensor | None = None
    """[n], what of this rank's own vector is not in the total; None for nothing."""
    owner_missed: Tensor | None = None
    """[ceil(n / W)], what this rank as the owner of its part left out of the sum; None where there is no owner."""


class Compressor(ABC):
    """Sums the buckets of one layout of pieces over a group. One object per bucket, the same kind on every rank.

    State that the next step builds on (a warm start) becomes its own with `commit` only: a step may be dropped.
    """

    has_owners = False
    """Whether the sum is made at owners of equal parts, and rounded a second time there."""

    def __init__(self, wire: Wire, pieces: Sequence[Piece]) -> None:
        self.wire = wire
        self.pieces = tuple(pieces)

    @abstractmethod
    def sum(self, vector: Tensor, owner_residual: Tensor | None, step: int) -> Summed:
        """Sum the ranks' flat vectors [n], fp32 or fp64; all ranks call it in the same order.

        `owner_residual`: [ceil(n / W)], what this owner left out before, to be added to its part of the sum; given
        where `has_owners` and error feedback is on. `step`: number of the optimizer step from 0, equal on all ranks.
        The vector is not changed. If it is all NaN on any rank, as a `Channel` makes one that is not finite, entries of
        the total are NaN on every rank.
        """

    def commit(self) -> None:  # noqa: B027  most have no state
        """The step of the last `sum` was taken."""

    def state(self) -> Mapping[str, Tensor]:
        """Committed state beside the residuals, for a bitwise resume in the same topology."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027  most have no state
        """Continue from `state()`."""
