"""Which sample sits at which global position: a function of (seed, epoch, position), so nothing needs to be saved.

Position p of a run lies in epoch p // size; step s with global batch G reads positions [s*G, (s+1)*G) whatever the
world size, and data rank r of D takes [s*G + r*G/D, s*G + (r+1)*G/D). The order of one epoch is a keyed permutation
of [0, size): a generalised Feistel network (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002) over
Z_a x Z_b with a*b >= size and cycle walking for the few values past the end. O(1) memory, vectorised.
"""

from __future__ import annotations

import math

import numpy as np

_ROUNDS = 8
_ALL_BITS = 0xFFFFFFFFFFFFFFFF
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_UInts = np.ndarray


def sample_ids(seed: int, size: int, shuffle: bool, start: int, count: int) -> np.ndarray:
    """int64 [count]: sample ids at global positions [start, start + count) of a data set of `size` samples."""
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    positions = np.arange(start, start + count, dtype=np.int64)
    epochs, offsets = np.divmod(positions, size)
    if not shuffle:
        return offsets
    keys = _mix(_mix(seed) ^ epochs.astype(np.uint64))
    return _permute(offsets.astype(np.uint64), size, keys).astype(np.int64)


def dropout_keys(seed: int, step: int, ids: np.ndarray) -> np.ndarray:
    """int64 [B]: one key per sample id of an optimizer step."""
    step_key = _mix(_mix(seed) ^ np.uint64(step))
    return _mix(step_key ^ _mix(ids.astype(np.uint64))).view(np.int64)


def _permute(values: _UInts, size: int, keys: _UInts) -> _UInts:
    """Images of `values` in [0, size) under the permutation of each key. Elements that leave the range walk on."""
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)
    result = _feistel(values, a, b, keys)
    outside = np.flatnonzero(result >= size)
    while outside.size:
        result[outside] = _feistel(result[outside], a, b, keys[outside])
        outside = outside[result[outside] >= size]
    return result


def _feistel(values: _UInts, a: int, b: int, keys: _UInts) -> _UInts:
    """A bijection of [0, a*b) per key: each round shifts one half by a hash of the other."""
    left, right = values // np.uint64(b), values % np.uint64(b)
    for number in range(0, _ROUNDS, 2):
        left = (left + _mix(right ^ _mix(keys + np.uint64(number))) % np.uint64(a)) % np.uint64(a)
        right = (right + _mix(left ^ _mix(keys + np.uint64(number + 1))) % np.uint64(b)) % np.uint64(b)
    return left * np.uint64(b) + right


def _mix(x: _UInts | int) -> _UInts:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014), elementwise modulo 2**64."""
    z = (np.array([x & _ALL_BITS], dtype=np.uint64) if isinstance(x, int) else x) + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
