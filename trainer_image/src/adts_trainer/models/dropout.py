"""Dropout whose mask is a function of (sample key, layer, site, position, feature).

The same sample drops the same activations under recomputation and at any data-parallel degree, because no generator
state is involved. The hash is murmur3's 32-bit finaliser in int64 tensors, with 31-bit multipliers so that no product
overflows: the same on every device and under torch.compile. It is applied to the embeddings, to the attention output
and to the feed-forward output; not to the attention probabilities, which fused attention kernels never show.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MASK = 0xFFFFFFFF
_FEATURES, _POSITIONS, _SITES = 0x2545F491, 0x1B873593, 0x27D4EB2F


class KeyedDropout(nn.Module):
    """Dropout at one place of the model."""

    def __init__(self, probability: float, site: int, features: int) -> None:
        """`site` numbers the places in the model where dropout happens. `features`: size of the last dimension."""
        super().__init__()
        self._probability, self._site = probability, site
        self.features = features
        self.first_feature = self.first_position = 0
        """Of the part that this rank sees, where tensor parallelism cuts activations."""

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """Zero each entry of x [B, T, H] or [B, H] with the probability, scale the rest by 1 / (1 - probability).

        keys: int64 [B].
        """
        if self._probability == 0.0 or not self.training:
            return x
        keep = self._hash(x, keys) >= int(self._probability * 2**32)
        scale = 1.0 / (1.0 - self._probability)
        return torch.where(keep, x * scale, torch.zeros((), dtype=x.dtype, device=x.device))

    def _hash(self, x: Tensor, keys: Tensor) -> Tensor:
        """int64 of x's shape, uniform in [0, 2**32)."""
        rows = _mix((keys & _MASK) ^ _mix(((keys >> 32) & _MASK) ^ (self._site * _SITES & _MASK)))
        if x.ndim == 3:
            positions = torch.arange(self.first_position, self.first_position + x.shape[1], device=x.device)
            rows = _mix(rows[:, None] ^ _mix(positions ^ _POSITIONS))
        features = torch.arange(self.first_feature, self.first_feature + x.shape[-1], device=x.device)
        return _mix(rows[..., None] ^ _mix(features ^ _FEATURES))


def _mix(x: Tensor) -> Tensor:
    """A bijection of [0, 2**32) that spreads every bit."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x6C8E9CF5) & _MASK
    return x ^ (x >> 16)
