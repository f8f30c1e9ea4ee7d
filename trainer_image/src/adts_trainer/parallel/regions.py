"""What tensor parallelism sends: the borders of a region whose matrices are cut over the tp ranks.

Between two regions every rank has the same activations [B, T, H], or with sequence parallelism (2205.05198, section
4.2) its part [B, ceil(T / tp), H] of them; the last part is padded with zeros, which no loss ever sees.

                     forward                     backward
enter                copy                        all-reduce
  with sequence      all-gather of positions     reduce-scatter of positions
leave                all-reduce                  copy
  with sequence      reduce-scatter              all-gather
split (sequence)     own part of the positions   all-gather
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class TensorRanks:
    """The tp ranks of one model replica, as one of them sees them."""

    group: dist.ProcessGroup
    rank: int
    size: int
    sequence: int = 0
    """Positions T of a sample where activations between regions are cut along them; 0 where they are whole."""

    @property
    def positions(self) -> int:
        """Positions of one rank's part."""
        return -(-self.sequence // self.size)

    @property
    def first_position(self) -> int:
        return self.rank * self.positions

    def part(self, size: int) -> tuple[int, int]:
        """(first, count) of this rank's part of `size` rows or columns: as equal as can be, the larger ones first."""
        return part(size, self.rank, self.size)


def part(size: int, rank: int, ranks: int) -> tuple[int, int]:
    """(first, count) of the part that `rank` of `ranks` has of `size`."""
    each, more = divmod(size, ranks)
    return rank * each + min(rank, more), each + (rank < more)


def enter(x: Tensor, ranks: TensorRanks) -> Tensor:
    """Activations as a region's first matrix wants them: whole, their gradient summed over the ranks."""
    return _Enter.apply(x, ranks)


def leave(x: Tensor, ranks: TensorRanks) -> Tensor:
    """The sum over the ranks of what each one's part of a region's last matrix gave."""
    return _Leave.apply(x, ranks)


def split(x: Tensor, ranks: TensorRanks) -> Tensor:
    """This rank's positions of something [..., T, H] that every rank has; x itself without sequence parallelism."""
    return _Split.apply(x, ranks) if ranks.sequence else x


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: TensorRanks) -> Tensor:
        ctx.ranks = ranks
        return _gather(x, ranks) if ranks.sequence else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ranks = ctx.ranks
        return (_reduce_scatter(grads[0], ranks) if ranks.sequence else _sum(grads[0], ranks)), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: TensorRanks) -> Tensor:
        ctx.ranks = ranks
        return _reduce_scatter(x, ranks) if ranks.sequence else _sum(x, ranks)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return (_gather(grads[0], ctx.ranks) if ctx.ranks.sequence else grads[0]), None


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: TensorRanks) -> Tensor:
        ctx.ranks = ranks
        return _padded(x, ranks).narrow(-2, ranks.first_position, ranks.positions).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _gather(grads[0], ctx.ranks), None


def _sum(x: Tensor, ranks: TensorRanks) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=ranks.group)
    return total


def _gather(x: Tensor, ranks: TensorRanks) -> Tensor:
    """[..., positions, H] of each rank -> [..., T, H]."""
    first = x.movedim(-2, 0).contiguous()
    whole = first.new_empty(ranks.size * ranks.positions, *first.shape[1:])
    dist.all_gather_into_tensor(whole, first, group=ranks.group)
    return whole[: ranks.sequence].movedim(0, -2).contiguous()  # else each matrix of the region would copy it


def _reduce_scatter(x: Tensor, ranks: TensorRanks) -> Tensor:
    """[..., T, H] of each rank -> the sum's [..., positions, H]."""
    first = _padded(x, ranks).movedim(-2, 0).contiguous()
    own = first.new_empty(ranks.positions, *first.shape[1:])
    dist.reduce_scatter_tensor(own, first, group=ranks.group)
    return own.movedim(0, -2).contiguous()


def _padded(x: Tensor, ranks: TensorRanks) -> Tensor:
    missing = ranks.size * ranks.positions - ranks.sequence
    return torch.nn.functional.pad(x, (0, 0, 0, missing)) if missing else x
