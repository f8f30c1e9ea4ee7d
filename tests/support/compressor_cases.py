"""What ranks do in the tests of compressors, and the obvious compressors that lose gradients without a word."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adts_api.errors import AdtsError
from adts_api.training import Compression
from adts_trainer.communication.channel import Channel
from adts_trainer.communication.compressor import Compressor, Piece, Summed
from adts_trainer.communication.methods import build
from adts_trainer.communication.two_stage import owned
from adts_trainer.communication.wire import Wire

Shapes = Sequence[Sequence[int]]
SHAPES: Shapes = ((40, 30), (7,), (6, 5, 4), (3, 2), (1,))
SEED = 5


def channel(wire: Wire, compression: Compression, shapes: Shapes = SHAPES) -> Channel:
    """A bucket of tensors of these shapes."""
    return Channel(build(compression, wire, _pieces(shapes), SEED), compression.error_feedback)


def _pieces(shapes: Shapes) -> list[Piece]:
    return [Piece(f"p{number}", torch.Size(shape)) for number, shape in enumerate(shapes)]


def gradient(rank: int, step: int, shapes: Shapes = SHAPES, dtype: torch.dtype = torch.float64) -> Tensor:
    """A rank's gradient in one step: two micro-batches added up, with a mean that is not zero."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    n = sum(map(math.prod, shapes))
    return (torch.randn(2, n, generator=generator, dtype=torch.float64).sum(0) + 0.3).to(dtype)


@dataclass
class Told:
    """One rank's side of the sum: Σ over ranks of what it `missed` + `applied` = Σ over ranks of `given`."""

    applied: Tensor
    given: Tensor
    missed: Tensor
    """The residual, and the owner's where its part lies."""
    digest: str
    """Of the bits of all totals."""
    sent: int


def lost(ranks: Sequence[Told]) -> float:
    """|Σ (applied + residual + owner residual) - Σ gradients| / |Σ gradients|."""
    given = torch.stack([rank.given for rank in ranks]).sum(0)
    found = ranks[0].applied + torch.stack([rank.missed for rank in ranks]).sum(0)
    return float((found - given).norm() / given.norm().clamp(min=1e-300))


def same_bits(ranks: Sequence[Told]) -> bool:
    return len({rank.digest for rank in ranks}) == 1


def train(wire: Wire, compression: Compression, steps: int, shapes: Shapes = SHAPES) -> Told:
    """Steps in fp64, all of them taken."""
    return run(channel(wire, compression, shapes), wire, [gradient(wire.rank, step, shapes) for step in range(steps)])


def train_without_owner(wire: Wire, compression: Compression, steps: int) -> Told:
    """The obvious error feedback: the sender's, and nobody keeps what the second rounding loses."""

    def forget(it: Channel, step: int) -> None:
        it.owner_residual = None

    gradients = [gradient(wire.rank, step) for step in range(steps)]
    return run(channel(wire, compression), wire, gradients, after=forget)


def train_in_flight(wire: Wire, steps: int) -> Told:
    """The obvious bf16 wire: an all-reduce in bf16, with error feedback for the cast."""
    gradients = [gradient(wire.rank, step) for step in range(steps)]
    return run(Channel(InFlight(wire, _pieces(SHAPES)), True), wire, gradients)


def train_and_replace(wire: Wire, first: Compression, then: Compression) -> Told:
    """Three steps with one compressor, two with another."""

    def replace(it: Channel, step: int) -> None:
        if step == 2:
            it.replace(channel(wire, then).compressor)

    gradients = [gradient(wire.rank, step) for step in range(5)]
    return run(channel(wire, first), wire, gradients, after=replace)


def run(
    it: Channel, wire: Wire, gradients: Sequence[Tensor], after: Callable[[Channel, int], None] = lambda *_: None
) -> Told:
    before, digest = wire.sent, hashlib.sha256()
    applied = torch.zeros_like(gradients[0])
    for step, own in enumerate(gradients):
        total = it.reduce(own, step)
        it.commit()
        after(it, step)
        applied += total
        digest.update(total.numpy().tobytes())
    given = torch.stack(list(gradients)).sum(0)
    return Told(applied, given, _missed(it, wire, applied), digest.hexdigest(), wire.sent - before)


def _missed(it: Channel, wire: Wire, like: Tensor) -> Tensor:
    missed = torch.zeros_like(like) if it.residual is None else it.residual.clone()
    if it.owner_residual is not None:
        own = owned(like.numel(), wire)
        missed[own] += it.owner_residual[: own.stop - own.start]
    return missed


def overflow(wire: Wire, compression: Compression, bad_rank: int, value: float, dtype: torch.dtype) -> bool:
    """A step that one rank spoils between good ones: whether the total shows it here; what was kept, and all that
    follows, is asserted to be bitwise as if it had never been."""
    it, twin = channel(wire, compression), channel(wire, compression)
    for step in range(3):
        for each in (it, twin):
            each.reduce(gradient(wire.rank, step, dtype=dtype), step)
            each.commit()
    bad = gradient(wire.rank, 3, dtype=dtype)
    if wire.rank == bad_rank:
        bad[17] = value
    total = it.reduce(bad, 3)
    it.drop()
    it.commit()  # of nothing
    assert kept(it) == kept(twin)
    after = [each.reduce(gradient(wire.rank, 3, dtype=dtype), 3) for each in (it, twin)]
    assert torch.equal(*after)
    assert after[0].isfinite().all()
    return not total.isfinite().all()


def resume(wire: Wire, compression: Compression) -> None:
    """A channel made anew from what a checkpoint holds goes on bitwise as the old one."""
    it, again = channel(wire, compression), channel(wire, compression)
    for step in range(3):
        it.reduce(gradient(wire.rank, step), step)
        it.commit()
    again.residual, again.owner_residual = (x if x is None else x.clone() for x in (it.residual, it.owner_residual))
    again.compressor.restore({name: value.clone() for name, value in it.compressor.state().items()})
    for step in range(3, 6):
        totals = [each.reduce(gradient(wire.rank, step), step) for each in (it, again)]
        assert torch.equal(*totals)
        for each in (it, again):
            each.commit()
    assert kept(it) == kept(again)


def kept(it: Channel) -> list[bytes]:
    """The bits of all that is committed."""
    state = it.compressor.state()
    tensors = [it.residual, it.owner_residual, *(state[name] for name in sorted(state))]
    return [b"" if tensor is None else tensor.contiguous().numpy().tobytes() for tensor in tensors]


def total_of(wire: Wire, compression: Compression, vectors: Sequence[Tensor], shapes: Shapes, steps: int) -> Tensor:
    """The last of some totals of the same gradients."""
    it = channel(wire, compression, shapes)
    for step in range(steps):
        total = it.reduce(vectors[wire.rank], step)
        it.commit()
    return total


def mean_total(wire: Wire, compression: Compression, vector: Tensor, steps: int) -> Tensor:
    """The mean of the totals of one vector over many steps, and so over many draws."""
    it = channel(wire, compression, [vector.shape])
    totals = torch.zeros_like(vector)
    for step in range(steps):
        totals += it.reduce(vector, step)
        it.commit()
    assert it.residual is None
    return totals / steps


def hidden(wire: Wire, name: str) -> bool:
    """Whether a NaN of rank 0 leaves no trace in the sum of a compressor that is used without a channel, or naive."""
    own = gradient(wire.rank, 0)
    if wire.rank == 0:
        own[17] = torch.nan
    pieces = _pieces(SHAPES)
    compressor = {
        "sign": lambda: MajorityVote(wire, pieces),
        "randomk": lambda: build(Compression(method="randomk"), wire, pieces, SEED),
    }[name]()
    return bool(compressor.sum(own, None, 0).total.isfinite().all())


def built(wire: Wire, compression: Compression) -> str:
    """The class that is built, or the error."""
    try:
        return type(build(compression, wire, _pieces(SHAPES), SEED)).__name__
    except AdtsError as error:
        return f"{type(error).__name__}: {error}"


def no_compressor(wire: Wire, pieces: Sequence[Piece]) -> Any:
    return len(pieces)


def broken(wire: Wire, pieces: Sequence[Piece]) -> Compressor:
    raise RuntimeError("boom")


class InFlight(Compressor):
    """bf16, added up in bf16 on the way."""

    def sum(self, vector: Tensor, owner_residual: Tensor | None, step: int) -> Summed:
        sent = vector.to(torch.bfloat16)
        missed = vector - sent.to(vector.dtype)
        self.wire.all_reduce(sent)
        return Summed(sent.to(vector.dtype), missed)


class MajorityVote(Compressor):
    """signSGD: the sign of the sum of signs."""

    def sum(self, vector: Tensor, owner_residual: Tensor | None, step: int) -> Summed:
        votes = vector.sign()
        self.wire.all_reduce(votes)
        return Summed(votes.sign())
