"""Which gradients travel together: every bucket is a flat vector made of parameters, or of rows of large ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from adts_trainer.communication.compressor import Piece

MEBIBYTE = 1024 * 1024
EDGE_BYTES = MEBIBYTE
"""Size of the first and the last bucket: the first leaves early, and the last is what nothing hides."""

FEWEST = 8
"""Buckets of a model with more than that many MiB."""

Named = tuple[str, nn.Parameter]


def local(gradient: Tensor) -> Tensor:
    """What this rank holds of a gradient."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


@dataclass(frozen=True)
class Rows:
    """Some rows, entries of the first dimension, of what this rank holds of a parameter; all of them as a rule."""

    name: str
    parameter: nn.Parameter
    start: int
    stop: int

    @property
    def shape(self) -> torch.Size:
        """A single number counts as a vector of one."""
        return torch.Size([self.stop - self.start, *self._own.shape[1:]])

    @property
    def entries(self) -> int:
        return math.prod(self.shape)

    @property
    def piece(self) -> Piece:
        """What a compressor knows of them."""
        whole = self.start == 0 and self.stop == max(1, *self._own.shape[:1])
        return Piece(self.name if whole else f"{self.name}@{self.start}", self.shape)

    def of(self, tensor: Tensor) -> Tensor:
        """These rows of a tensor in the parameter's local shape, sharing storage."""
        return tensor.narrow(0, self.start, self.stop - self.start) if tensor.ndim else tensor.view(1)

    @property
    def _own(self) -> Tensor:
        return local(self.parameter.detach())


def cut(parameters: Iterable[Named], limit: int) -> Iterator[Rows]:
    """Parameters in rows of at most about `limit` bytes; what this rank holds nothing of is left out."""
    for name, parameter in parameters:
        own = local(parameter.detach())
        if own.numel() == 0:
            continue
        rows = own.shape[0] if own.ndim else 1
        parts = min(rows, math.ceil(own.nbytes / limit))
        for part in range(parts):
            yield Rows(name, parameter, rows * part // parts, rows * (part + 1) // parts)


def lay_out(
    parameters: Sequence[Named], limit: int, is_lossy: Callable[[str, nn.Parameter], bool]
) -> list[tuple[list[Rows], bool]]:
    """Buckets of at most about `limit` bytes in the order in which they are to travel, and whether each may be lossy.
    Of a model that is small beside the limit at least `FEWEST` are made: what travels last is hidden by nothing.

    `parameters` come in the order in which their gradients are ready. Exact and lossy ones never share a bucket; a
    bucket travels where its last parameter stands in that order.
    """
    limit = min(limit, max(EDGE_BYTES, sum(local(it.detach()).nbytes for _, it in parameters) // FEWEST))
    order = {name: number for number, (name, _) in enumerate(parameters)}
    buckets: list[tuple[list[Rows], bool]] = []
    for kind in (False, True):
        own = list(cut(((n, p) for n, p in parameters if is_lossy(n, p) == kind), limit))
        buckets += [(bucket, kind) for bucket in _fill(own, limit)]
    return sorted(buckets, key=lambda it: order[it[0][-1].name])


def _fill(rows: Sequence[Rows], limit: int) -> Iterator[list[Rows]]:
    """Lists of at most `limit` bytes, the first and the last of at most `EDGE_BYTES`, where the rows are that small."""
    size = lambda it: it.entries * it.parameter.dtype.itemsize  # noqa: E731  named for the sums below
    edge, tail = min(limit, EDGE_BYTES), 0
    at = len(rows)
    while at > 0 and tail + size(rows[at - 1]) <= edge:
        at -= 1
        tail += size(rows[at])
    bucket: list[Rows] = []
    is_first, full = True, 0
    for number, it in enumerate(rows):
        room = edge if is_first else limit
        if bucket and (full + size(it) > room or number == at):
            yield bucket
            is_first, bucket, full = False, [], 0
        bucket.append(it)
        full += size(it)
    if bucket:
        yield bucket
