"""PowerSGD: matrices travel as two thin factors, from one step of power iteration that starts where the last ended.

Vogels et al., PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization (1905.13727, algorithms 1
and 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adts_api.wire_bytes import is_low_rank
from adts_trainer.communication.compressor import Compressor, Piece, Summed
from adts_trainer.communication.seeds import seeded
from adts_trainer.communication.wire import Wire


@dataclass(frozen=True)
class _Matrix:
    """A piece as a matrix [rows, columns]."""

    name: str
    rows: int
    columns: int
    start: int
    """Of its entries in the bucket."""

    def of(self, vector: Tensor) -> Tensor:
        """Its entries of a bucket's vector, not a copy."""
        return vector[self.start : self.start + self.rows * self.columns].view(self.rows, self.columns)


class PowerSGD(Compressor):
    """For each matrix M_i [rows, columns] of rank i, and r = `rank`:

        P  = Σ_i M_i Q       [rows, r]      all matrices of the bucket in one collective
        P̂  = orthogonalise(P)
        Q' = Σ_i M_iᵀ P̂      [columns, r]   in a second
        total = P̂ Q'ᵀ,  missed by i: M_i - total / W,  next Q: Q'

    What rank i missed is measured against what was applied, not against a compression of its own, so that rounding of
    the factors loses nothing: `cast` may sum them in fewer bytes (None: one all-reduce in the vector's dtype). Vectors,
    and matrices whose factors would not be smaller, are summed exactly, in the all-reduce of P or in their own.

    All ranks compute P̂ and P̂ Q'ᵀ from the same bits, which gives the same bits on machines of one kind.
    """

    def __init__(
        self, wire: Wire, pieces: Sequence[Piece], rank: int, seed: int, cast: Compressor | None = None
    ) -> None:
        super().__init__(wire, pieces)
        self._rank = rank
        self._seed = seed
        self._cast = cast
        self._matrices: list[_Matrix] = []
        self._plain: list[slice] = []
        start = 0
        for piece in self.pieces:
            n = piece.shape.numel()
            if is_low_rank(piece.shape, rank):
                self._matrices.append(_Matrix(piece.name, piece.shape[0], math.prod(piece.shape[1:]), start))
            else:
                self._plain.append(slice(start, start + n))
            start += n
        self._warm: dict[str, Tensor] = {}
        """Committed Q [columns, r] by the name of its matrix."""
        self._next: dict[str, Tensor] = {}
        """Those of the last sum."""

    def sum(self, vector: Tensor, owner_residual: Tensor | None, step: int) -> Summed:
        """See `Compressor.sum`."""
        plain = _joined(vector, [vector[it] for it in self._plain])
        p, plain = self._summed([m.of(vector) @ self._start(m, vector) for m in self._matrices], plain, step)
        bases = [torch.linalg.qr(it).Q for it in p]
        q, _ = self._summed(
            [m.of(vector).T @ basis for m, basis in zip(self._matrices, bases, strict=True)], plain[:0], step
        )

        total = torch.empty_like(vector)
        for matrix, basis, factor in zip(self._matrices, bases, q, strict=True):
            torch.mm(basis, factor.T, out=matrix.of(total))
        missed = torch.sub(vector, total, alpha=1 / self.wire.size)
        for place, values in zip(
            self._plain, torch.split(plain, [it.stop - it.start for it in self._plain]), strict=True
        ):
            total[place] = values
            missed[place] = 0
        self._next = {matrix.name: factor.clone() for matrix, factor in zip(self._matrices, q, strict=True)}
        return Summed(total, missed)

    def commit(self) -> None:
        """The next sum starts from the last one's Q."""
        self._warm, self._next = self._next, {}

    def state(self) -> Mapping[str, Tensor]:
        """Q [columns, r] by the name of its matrix; empty before the first commit."""
        return self._warm

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state()`; what does not fit, because the rank changed, starts anew."""
        shapes = {matrix.name: (matrix.columns, self._rank) for matrix in self._matrices}
        self._warm = {name: q for name, q in state.items() if q.shape == shapes.get(name)}

    def _start(self, matrix: _Matrix, vector: Tensor) -> Tensor:
        """The last Q or, the first time, a random one. The paper leaves it as long as the gradient, so that M Q is of
        the gradient's square and tiny ones underflow: here its largest entry is 1, which changes no P̂."""
        warm = self._warm.get(matrix.name)
        if warm is None:
            generator = seeded(self._seed, matrix.name)
            warm = torch.randn(matrix.columns, self._rank, generator=generator, dtype=vector.dtype)
        warm = warm.to(vector)
        return warm / warm.abs().max().clamp(min=torch.finfo(vector.dtype).tiny)

    def _summed(self, factors: list[Tensor], plain: Tensor, step: int) -> tuple[list[Tensor], Tensor]:
        """Sums over the ranks of matrices, in few bytes, and of a vector, exactly."""
        packed = _joined(plain, [factor.flatten() for factor in factors])
        if self._cast is None:
            together = torch.cat((packed, plain))
            self.wire.all_reduce(together)
            packed, plain = torch.split(together, [packed.numel(), plain.numel()])
        else:
            self.wire.all_reduce(plain)
            packed = self._cast.sum(packed, None, step).total
        sums = torch.split(packed, [factor.numel() for factor in factors])
        return [it.view_as(factor) for it, factor in zip(sums, factors, strict=True)], plain


def _joined(like: Tensor, vectors: list[Tensor]) -> Tensor:
    """One new vector of all entries, also of none."""
    return torch.cat([like[:0], *vectors])
