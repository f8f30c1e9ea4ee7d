"""Measures a link and the cost of compression in about a second: what `auto` predicts from.

Sizes grow until they tell the bandwidth, and stop growing where a repetition is long, so that the probe ends on slow
links too. The slowest rank counts, and all ranks go on with its numbers: they decide alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor

from adts_trainer.communication.bucket import Build
from adts_trainer.communication.channel import Channel
from adts_trainer.communication.compressor import Piece
from adts_trainer.communication.prediction import Link
from adts_trainer.communication.wire import Wire

_FIRST_BYTES, _LAST_BYTES, _GROWTH = 64 * 1024, 16 * 1024 * 1024, 4
_LONG_SECONDS = 0.3
"""Longest repetition that a next size may need."""
_SMALL_REPETITIONS, _REPETITIONS = 9, 3


def slowest(values: Sequence[float], group: dist.ProcessGroup | None = None) -> list[float]:
    """The largest of each value over the ranks of a group, None for all: fp64, the same bits everywhere."""
    found = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=group)
    return [float(it) for it in found]


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Of one call, with what it has started on the device."""
    _synchronise(device)
    begin = time.perf_counter()
    action()
    _synchronise(device)
    return time.perf_counter() - begin


def measure_link(wire: Wire, device: torch.device, everyone: dist.ProcessGroup | None = None) -> Link:
    """Of a group of at least two ranks. All ranks of `everyone`, by default of the job, measure theirs at once, as a
    step would use them, and get the slowest."""

    def agreed(size: int, repetitions: int) -> float:
        tensor = torch.ones(size // 4, device=device)
        wire.all_reduce(tensor)  # connections are made at first use
        times = [seconds_of(lambda: wire.all_reduce(tensor), device) for _ in range(repetitions)]
        return slowest([median(times)], everyone)[0]

    latency, size = agreed(4, _SMALL_REPETITIONS), _FIRST_BYTES
    while True:
        repetition = agreed(size, _REPETITIONS)
        if size >= _LAST_BYTES or repetition * _GROWTH > _LONG_SECONDS:
            break
        size *= _GROWTH
    before = wire.sent
    wire.all_reduce(torch.ones(size // 4, device=device))
    return Link(latency, (wire.sent - before) / max(repetition - latency, 0.1 * repetition))


class Echo(Wire):
    """A stand-in without a network, for the cost of compression alone: what comes back at once has the right shape."""

    def __init__(self, ranks: int) -> None:
        self.size, self.rank, self.sent = ranks, 0, 0

    def all_reduce(self, tensor: Tensor) -> None:
        """As if the others had sent zeros."""

    def all_gather(self, tensor: Tensor) -> Tensor:
        """[...] -> [W, ...], as if all had sent the same."""
        return tensor.unsqueeze(0).repeat(self.size, *[1] * tensor.ndim)

    def all_to_all(self, rows: Tensor) -> Tensor:
        """[W, ...] -> [W, ...], as if all had sent the same."""
        return rows.clone()


def seconds_per_byte(build: Build, pieces: Sequence[Piece], ranks: int, like: Tensor) -> float:
    """What compressing and restoring a bucket costs this rank, per byte of it, with error feedback and no network; in
    the dtype and on the device of `like`. 0 for an empty bucket."""
    n = sum(piece.shape.numel() for piece in pieces)
    if not n:
        return 0.0
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(n, generator=generator).to(like)
    channel = Channel(build(Echo(ranks), pieces), error_feedback=True)

    def reduce() -> None:
        channel.reduce(vector, 0)
        channel.commit()

    return min(seconds_of(reduce, like.device) for _ in range(2)) / vector.nbytes


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
