"""What every rank of `adts bench comm` does: the same random gradients through every compressor, timed and compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

import torch
from torch import Tensor

from adts_api.training import Compression
from adts_trainer.communication.bench_report import Row
from adts_trainer.communication.channel import Channel
from adts_trainer.communication.compressor import Piece
from adts_trainer.communication.methods import build
from adts_trainer.communication.probe import seconds_of, slowest
from adts_trainer.communication.wire import Wire

METHODS = ("none", "fp16", "bf16", "int8", "fp8", "onebit", "powersgd", "topk", "randomk")
"""Of `spec.compression.method`, with the other fields at their defaults."""
_COLUMNS = 1024
_RANK = 16
_LONG_SECONDS = 1.0
"""A sum that takes longer is not repeated: the median of one says enough, and the link may be slow."""


def run(
    wire: Wire, device: torch.device, methods: Sequence[str], sizes: Sequence[float], repetitions: int
) -> Iterator[Row]:
    """Row by row, on all ranks at once; `sizes` in MiB."""
    for size in sizes:
        gradient = sample(wire.rank, size).to(device)
        exact = gradient.clone()
        wire.all_reduce(exact)
        for method in methods:
            yield _row(wire, method, size, gradient, exact, repetitions)


def sample(rank: int, mebibytes: float) -> Tensor:
    """A matrix like a gradient, fp32 [rows, 1024]: falling singular values, alike on all ranks, and noise of each."""
    rows = max(1, math.ceil(mebibytes * 2**20 / 4 / _COLUMNS))
    shared, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1 + rank)
    left = torch.randn(rows, _RANK, generator=shared) / torch.arange(1, _RANK + 1)
    return left @ torch.randn(_RANK, _COLUMNS, generator=shared) + torch.randn(rows, _COLUMNS, generator=own)


def _row(wire: Wire, method: str, size: float, gradient: Tensor, exact: Tensor, repetitions: int) -> Row:
    compressor = build(Compression.model_validate({"method": method}), wire, [Piece("gradient", gradient.shape)], 0)
    channel, flat = Channel(compressor, error_feedback=False), gradient.flatten()
    before = wire.sent
    total, first = _timed(channel, flat, 0)
    sent = wire.sent - before
    error = (total - exact.flatten()).norm() / exact.norm()
    is_long = slowest([first], wire.group)[0] > _LONG_SECONDS
    times = []
    for step in range(1, 2 if is_long else repetitions + 1):
        slowest([0.0], wire.group)  # all begin together
        times.append(_timed(channel, flat, step)[1])
    return Row(method, size, slowest([median(times)], wire.group)[0], sent, error.item())


def _timed(channel: Channel, flat: Tensor, step: int) -> tuple[Tensor, float]:
    totals: list[Tensor] = []
    seconds = seconds_of(lambda: totals.append(channel.reduce(flat, step)), flat.device)
    channel.commit()
    return totals[0], seconds
