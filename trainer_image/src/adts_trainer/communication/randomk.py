"""Random-k: all ranks send the same k entries, so that places need not travel and sums are of k numbers.

Stich et al., Sparsified SGD with Memory (1809.07599, section 2); Wangni et al. (1710.09854) for the unbiased form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adts_api.wire_bytes import kept_entries
from adts_trainer.communication.compressor import Compressor, Piece, Summed
from adts_trainer.communication.exact import Exact
from adts_trainer.communication.seeds import seeded
from adts_trainer.communication.two_stage import owned
from adts_trainer.communication.wire import Wire


class RandomK(Compressor):
    """total_j = c Σ_i v_ij for j in S, else 0. S: k of n entries, from (seed, bucket, step), all sets equally likely.

    `unbiased`: c = n / k, so that the expected total is Σ v_i: right without error feedback, whose residual would grow
    by it. Otherwise c = 1, and what is not in S is missed, and comes with a later step. `cast` sums the k values, in
    fewer bytes; None for exactly.
    """

    def __init__(
        self,
        wire: Wire,
        pieces: Sequence[Piece],
        ratio: float,
        seed: int,
        *,
        unbiased: bool,
        cast: Compressor | None = None,
    ) -> None:
        super().__init__(wire, pieces)
        self._ratio = ratio
        self._seed = seed
        self._unbiased = unbiased
        self._values = cast or Exact(wire, pieces)

    def sum(self, vector: Tensor, owner_residual: Tensor | None, step: int) -> Summed:
        """See `Compressor.sum`."""
        n = vector.numel()
        k = kept_entries(n, self._ratio)
        bucket = self.pieces[0].name if self.pieces else ""
        places = choose(n, k, seeded(self._seed, bucket, step)).to(vector.device)
        sent = vector[places]
        if self._unbiased and k:
            sent *= n / k
        summed = self._values.sum(sent, None, step)

        total, missed = torch.zeros_like(vector), vector.clone()
        total[places] = summed.total
        if summed.missed is not None:
            sent -= summed.missed
        if summed.owner_missed is not None:  # this rank owns a part of the k values: the next step sends it as its own
            own = owned(k, self.wire)
            sent[own] -= summed.owner_missed[: own.stop - own.start]
        missed[places] -= sent
        return Summed(total, missed)


def choose(n: int, k: int, generator: torch.Generator) -> Tensor:
    """k different numbers below n, every set equally likely: int64 [k], ascending."""
    if 4 * k > n:
        return torch.randperm(n, generator=generator)[:k].sort().values
    # Far faster than a permutation of all: draw with repetition, and take the first k that differ.
    drawn = torch.empty(0, dtype=torch.int64)
    first = drawn
    while first.numel() < k:
        drawn = torch.cat((drawn, torch.randint(n, (k + k // 2 + 1,), generator=generator)))
        ordered, order = drawn.sort(stable=True)
        is_first = torch.ones_like(ordered, dtype=torch.bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        first = order[is_first].sort().values[:k]
    return drawn[first].sort().values
