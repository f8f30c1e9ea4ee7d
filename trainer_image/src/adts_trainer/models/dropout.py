"""Dropout whose mask is a function of (sample key, layer, site, position, feature).

The same sample drops the same activations under recomputation and at any data-parallel degree, because no generator
state is involved. The hash is murmur3's 32-bit finaliser in int64 tensors, with 31-bit multipliers so that no product
overflows: the same on every device and under torch.compile. It is applied to the embeddings, to the attention output
and to the feed-forward output; not to the attention probabilities, which fused attention kernels never show.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_FEATURES, _POSITIONS, _SITES = 0x2545F491, 0x1B873593, 0x27D4EB2F


def keyed_dropout(x: Tensor, keys: Tensor, probability: float, site: int) -> Tensor:
    """Zero each entry of x [B, T, H] or [B, H] with `probability`, scale the rest by 1 / (1 - probability).

    keys: int64 [B]. `site` numbers the places in the model where dropout happens.
    """
    if probability == 0.0:
        return x
    keep = _hash(x, keys, site) >= int(probability * 2**32)
    return torch.where(keep, x * (1.0 / (1.0 - probability)), torch.zeros((), dtype=x.dtype, device=x.device))


def _hash(x: Tensor, keys: Tensor, site: int) -> Tensor:
    """int64 of x's shape, uniform in [0, 2**32)."""
    rows = _mix((keys & _MASK) ^ _mix(((keys >> 32) & _MASK) ^ (site * _SITES & _MASK)))
    if x.ndim == 3:
        positions = _mix(torch.arange(x.shape[1], device=x.device) ^ _POSITIONS)
        rows = _mix(rows[:, None] ^ positions)
    features = _mix(torch.arange(x.shape[-1], device=x.device) ^ _FEATURES)
    return _mix(rows[..., None] ^ features)


def _mix(x: Tensor) -> Tensor:
    """A bijection of [0, 2**32) that spreads every bit."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x6C8E9CF5) & _MASK
    return x ^ (x >> 16)
