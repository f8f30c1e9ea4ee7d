"""Sums in a low-precision wire format, added up in full precision: all-to-all, sum at the owner, all-gather.

An all-reduce in the low format itself rounds after every addition, in flight, where nobody can keep what was lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adts_trainer.communication.codecs import Codec
from adts_trainer.communication.compressor import Compressor, Piece, Summed
from adts_trainer.communication.wire import Wire


class TwoStage(Compressor):
    """For rank i with the vector v_i, whose j-th of W equal parts is v_ij, encoded and decoded as C(v):

        i -> j: C(v_ij)            missed by i:        v_i - C(v_i)
        s_j = Σ_i C(v_ij) + e_j    e_j: what j missed as the owner of part j before
        j -> all: C(s_j)           missed by owner j:  s_j - C(s_j)

    The two roundings are the "double pass" error compensation of DoubleSqueeze (1905.05957, algorithm 1), with every
    rank the server of one part. Works for any n: the last parts are shorter, or empty.
    """

    has_owners = True

    def __init__(self, wire: Wire, pieces: Sequence[Piece], codec: Codec) -> None:
        super().__init__(wire, pieces)
        self._codec = codec

    def sum(self, vector: Tensor, owner_residual: Tensor | None, step: int) -> Summed:
        """See `Compressor.sum`."""
        n, ranks, dtype = vector.numel(), self.wire.size, vector.dtype
        if not n:
            return Summed(vector.clone())
        length = -(-n // ranks)
        parts = torch.cat((vector, vector.new_zeros(ranks * length - n))).view(ranks, length)
        sent = self._codec.encode(parts, real=n)
        missed = self._codec.decode(sent, length, dtype).flatten()[:n]
        torch.sub(vector, missed, out=missed)

        part = self._codec.decode(self.wire.all_to_all(sent), length, dtype).sum(0)
        own = owned(n, self.wire)
        real = own.stop - own.start
        part[real:] = 0  # padding, decoded, may be anything
        if owner_residual is not None:
            part += owner_residual
        encoded = self._codec.encode(part.unsqueeze(0), real)
        owner_missed = self._codec.decode(encoded, length, dtype).flatten()
        torch.sub(part, owner_missed, out=owner_missed)
        owner_missed[real:] = 0

        gathered = self.wire.all_gather(encoded.squeeze(0))
        return Summed(self._codec.decode(gathered, length, dtype).flatten()[:n], missed, owner_missed)


def owned(n: int, wire: Wire) -> slice:
    """The entries of a vector [n] that this rank owns: at most ceil(n / W)."""
    length = -(-n // wire.size)
    return slice(min(wire.rank * length, n), min((wire.rank + 1) * length, n))
