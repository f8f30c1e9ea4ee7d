"""Top-k: every rank sends its k largest entries with their places.

Aji and Heafield, Sparse Communication for Distributed Gradient Descent (1704.05021); the warm-up of the density is from
Lin et al., Deep Gradient Compression (1712.01887, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from adts_api.wire_bytes import kept_entries
from adts_trainer.communication.codecs import Codec, numbers
from adts_trainer.communication.compressor import Compressor, Piece, Summed
from adts_trainer.communication.wire import Wire

_SAMPLES = 100_000
"""Entries from which the k-th largest magnitude is guessed; shorter vectors are searched as they are."""


class TopK(Compressor):
    """total = Σ_i C(top_k(v_i)) in the order of ranks; missed by i: v_i - C(top_k(v_i)). C is the format of the values.

    `ratio`: k / n after the first `warmup_steps` steps.
    """

    def __init__(self, wire: Wire, pieces: Sequence[Piece], codec: Codec, ratio: float, warmup_steps: int) -> None:
        super().__init__(wire, pieces)
        self._codec = codec
        self._ratio = ratio
        self._warmup_steps = warmup_steps

    def sum(self, vector: Tensor, owner_residual: Tensor | None, step: int) -> Summed:
        """See `Compressor.sum`; fewer than 2^31 entries."""
        k = kept_entries(vector.numel(), density(step, self._ratio, self._warmup_steps))
        places = largest(vector, k)
        encoded = self._codec.encode(vector[places].unsqueeze(0), real=k).squeeze(0)
        gathered = self.wire.all_gather(torch.cat((places.to(torch.int32).view(torch.uint8), encoded)))
        all_places = numbers(gathered[:, : 4 * k], torch.int32)
        values = self._codec.decode(gathered[:, 4 * k :].clone(), k, vector.dtype)

        total, missed = torch.zeros_like(vector), vector.clone()
        for rank in range(self.wire.size):  # one after another: on a GPU, additions to one place come in any order
            total.index_add_(0, all_places[rank], values[rank])
        missed.index_add_(0, places, values[self.wire.rank], alpha=-1)
        return Summed(total, missed)


def density(step: int, ratio: float, warmup_steps: int) -> float:
    """Fraction of entries to send in a step: 25 %, 6.25 %, 1.6 %, ... in equal shares of the warm-up, then `ratio`."""
    if step >= warmup_steps:
        return ratio
    stages = max(1, math.ceil(math.log(0.25 / ratio, 4)))
    return max(ratio, 0.25 * 4.0 ** -(step * stages // warmup_steps))


def largest(vector: Tensor, k: int) -> Tensor:
    """Places of the k entries with the largest magnitude, NaN first: int64 [k] in no order.

    Exact, yet four times faster than a search of it all: a sample (as in 1712.01887, section 5) gives a threshold that
    about 1.5 k entries exceed. If at least k do, the k largest are among them; if not, all are searched.
    """
    n = vector.numel()
    sample = vector[:: n // _SAMPLES | 1].abs() if n > 2 * _SAMPLES else vector[:0]
    above = math.ceil(1.5 * k / max(1, n) * sample.numel())
    if above < sample.numel():
        threshold = sample.kthvalue(sample.numel() - above).values
        candidates = ((vector <= threshold) & (vector >= -threshold)).logical_not_().nonzero().squeeze(1)
        if candidates.numel() >= k:
            return candidates[vector[candidates].abs().topk(k, sorted=False).indices]
    return vector.abs().topk(k, sorted=False).indices
