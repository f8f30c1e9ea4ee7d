"""Bytes that gradient compression puts on the links, in closed form: for plans. Tests hold it against the wire's count.

Collectives are counted as `adts_trainer.communication.wire` counts them: what one rank sends when they run as a ring.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from adts_api.training import Compression


def wire_bytes(compression: Compression, shapes: Sequence[Sequence[int]], ranks: int, itemsize: int = 4) -> int | None:
    """Bytes one rank sends to sum one bucket of tensors of these shapes once, after any warm-up.

    `ranks`: how many sum, W. `itemsize`: bytes of a gradient entry. None for `auto` and `custom`: nobody knows.
    """
    n = sum(map(math.prod, shapes))
    match compression.method:
        case "none":
            return _all_reduce(n * itemsize, ranks)
        case "bf16" | "fp16" | "int8" | "fp8" | "onebit":
            return _two_stage(compression.method, n, ranks, itemsize, compression.block_size)
        case "topk":
            k = kept_entries(n, compression.ratio)
            return (ranks - 1) * (4 * k + encoded_bytes(compression.cast, k, itemsize))
        case "randomk":
            return _cast(compression, kept_entries(n, compression.ratio), 0, ranks, itemsize)
        case "powersgd":
            low = [shape for shape in shapes if is_low_rank(shape, compression.rank)]
            plain = n - sum(map(math.prod, low))
            p = compression.rank * sum(shape[0] for shape in low)
            q = compression.rank * sum(math.prod(shape[1:]) for shape in low)
            return _cast(compression, p, plain, ranks, itemsize) + _cast(compression, q, 0, ranks, itemsize)
        case _:
            return None


def encoded_bytes(codec: str, n: int, itemsize: int, block: int = 1) -> int:
    """Bytes of a row of `n` entries in a wire format: its codes, and its scales in the dtype of the entries."""
    blocks = -(-n // block)
    match codec:
        case "bf16":
            return 2 * n
        case "fp16":
            return 2 * n + itemsize
        case "int8" | "fp8":
            return n + blocks * itemsize
        case "onebit":
            return -(-n // 8) + blocks * itemsize
        case _:
            return n * itemsize


def kept_entries(n: int, ratio: float) -> int:
    """k of top-k and random-k: at least one entry of a bucket that has any."""
    return min(n, math.ceil(ratio * n))


def is_low_rank(shape: Sequence[int], rank: int) -> bool:
    """Whether PowerSGD's factors of a tensor, as the matrix [d0, rest], are smaller than it."""
    if len(shape) < 2:
        return False
    rows, columns = shape[0], math.prod(shape[1:])
    return rank * (rows + columns) < rows * columns


def _all_reduce(size: int, ranks: int) -> int:
    return 2 * size * (ranks - 1) // ranks


def _two_stage(codec: str, n: int, ranks: int, itemsize: int, block: int = 1) -> int:
    """All-to-all and all-gather of one encoded part per rank; no part of an empty bucket travels."""
    return 2 * (ranks - 1) * encoded_bytes(codec, -(-n // ranks), itemsize, block) if n else 0


def _cast(compression: Compression, n: int, plain: int, ranks: int, itemsize: int) -> int:
    """Sum `n` entries in the format of `cast` and `plain` ones exactly."""
    if compression.cast == "none":
        return _all_reduce((n + plain) * itemsize, ranks)
    return _two_stage(compression.cast, n, ranks, itemsize) + _all_reduce(plain * itemsize, ranks)
