"""Seconds that a step's gradients need on a link, by method: what `compression: {method: auto}` tries first. No torch.

The model of Hockney (1994): a collective takes a start-up time, and its bytes at the link's speed. Compressing is added
as seconds per byte of gradients, measured; what the backward pass hides is taken off by `decisions`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adts_api.training import Compression
from adts_api.wire_bytes import wire_bytes

NONE = "none"
_CLEARLY = 0.7
"""Part of what is waited for that another bucket size must come down to: the model is not finer."""
MILDEST_FIRST = (NONE, "fp16", "bf16", "int8", "onebit", "powersgd", "topk")
"""What `auto` chooses from, by how much of a gradient one sum loses at the default rank and ratio."""


@dataclass(frozen=True)
class Link:
    """What one collective over a group costs, as its slowest rank sees it."""

    latency_seconds: float
    """Of the smallest one."""
    bytes_per_second: float
    """That each rank sends."""


@dataclass(frozen=True)
class Load:
    """One bucket."""

    shapes: tuple[tuple[int, ...], ...]
    is_lossy: bool
    """Whether it may be compressed."""

    def nbytes(self, itemsize: int) -> int:
        return sum(map(math.prod, self.shapes)) * itemsize


def candidates(spec: Compression) -> dict[str, Compression]:
    """The methods to choose from, with the rank, ratio and block size of the spec; the mildest first."""
    return {method: spec.model_copy(update={"method": method}) for method in MILDEST_FIRST}


@dataclass(frozen=True)
class Exchange:
    """A step's gradients, one bucket after another."""

    seconds: float
    """Of all buckets."""
    longest: float
    """Of one bucket: what no backward pass hides, for it leaves when its last gradient is there."""


def exchange(
    method: Compression, loads: Sequence[Load], ranks: int, itemsize: int, link: Link, seconds_per_byte: float
) -> Exchange:
    """What is predicted; `seconds_per_byte`: of compression, per byte of gradients of `itemsize` each.

    Raises ValueError for a method whose bytes nobody knows.
    """
    exact = method.model_copy(update={"method": NONE})
    each = [0.0]
    for load in loads:
        used = method if load.is_lossy else exact
        sent = wire_bytes(used, load.shapes, ranks, itemsize)
        if sent is None:
            raise ValueError(f"spec.compression.method: the bytes of {used.method} cannot be told beforehand")
        on_link = _collectives(used) * link.latency_seconds + sent / link.bytes_per_second
        each.append(on_link + load.nbytes(itemsize) * seconds_per_byte * load.is_lossy)
    return Exchange(sum(each), max(each))


def best_bucket(predicted: Mapping[tuple[str, float], Exchange], given: float, *, overlaps: bool) -> float:
    """The bucket size, in MiB, with clearly less to wait for than the `given` one, or that; `predicted` is by method
    and size. Large buckets wait for the link less often, and hide less behind the backward pass."""
    waited: dict[float, float] = {}
    for (_, size), it in predicted.items():
        waited[size] = min(waited.get(size, math.inf), it.seconds + it.longest * overlaps)
    best = min(waited, key=lambda size: waited[size])
    return best if waited[best] < _CLEARLY * waited[given] else given


def _collectives(method: Compression) -> int:
    """Collectives of one bucket: each waits for the link's latency."""
    return 1 if method.method in (NONE, "topk") else 2
