"""Number formats of the wire: each turns rows of numbers into fewer bytes and back, and knows nothing of ranks.

A codec packs its scales and its codes into one tensor of bytes per row, so that a message is one collective. A scale
has the dtype of the numbers (an fp32 scale would overflow for some fp64 numbers). NaN and infinity do not survive entry
by entry, but they make the scale of their row or block NaN or infinite, and with it what is decoded there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache

import torch
from torch import Tensor


class Codec(ABC):
    """Encodes rows of fp32 or fp64 numbers, each row for itself."""

    @abstractmethod
    def encode(self, x: Tensor, real: int) -> Tensor:
        """[rows, n] -> uint8 [rows, bytes]. Entries of `x.flatten()` from `real` on are padding, and zero."""

    @abstractmethod
    def decode(self, wire: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """uint8 [rows, bytes] -> [rows, n] in the `dtype` that was encoded. Where there was padding is anything."""


class Plain(Codec):
    """The numbers as they are."""

    def encode(self, x: Tensor, real: int) -> Tensor:
        return _bytes(x)

    def decode(self, wire: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        return numbers(wire, dtype)


class BFloat16(Codec):
    """8 significant bits: |error| <= 2^-8 |x| from 1e-38 to 3.39e38, where it overflows."""

    def encode(self, x: Tensor, real: int) -> Tensor:
        return _bytes(x.to(torch.bfloat16))

    def decode(self, wire: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        return numbers(wire, torch.bfloat16).to(dtype)


class Float16(Codec):
    """11 significant bits under one scale per row: |error| <= 2^-11 |x| + 2^-25 s.

    The scale s is the power of two that takes the largest entry to [2^14, 2^15), so that true gradients, which may all
    be below fp16's 6e-8, do not vanish and none overflows. Powers of two round nothing.
    """

    def encode(self, x: Tensor, real: int) -> Tensor:
        largest = _largest(x, dim=1).clamp(min=_smallest(x.dtype) * 2**16)
        scale = largest * 2**-15 / torch.frexp(largest).mantissa  # m 2^e / m
        return _packed(scale.unsqueeze(1), (x / scale.unsqueeze(1)).to(torch.float16))

    def decode(self, wire: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        scale, codes = _unpacked(wire, 1, dtype)
        return numbers(codes, torch.float16).to(dtype).mul_(scale)


class _Blockwise(Codec):
    """q = x / s in a format of one byte that ends at `top`; s = max |x| / top over each `block` entries of a row.

    After Dettmers, 8-Bit Approximations for Parallelism in Deep Learning (1511.04561), and 8-bit Optimizers via
    Block-wise Quantization (2110.02861, section 2.1): an outlier costs its own block its precision and no other.
    """

    top: float

    def __init__(self, block: int) -> None:
        self._block = block

    @abstractmethod
    def _codes(self, q: Tensor) -> Tensor:
        """Rounds numbers in [-top, top], which it may overwrite, to the format of one byte."""

    @abstractmethod
    def _levels(self, codes: Tensor) -> Tensor:
        """The bytes in that format again."""

    def encode(self, x: Tensor, real: int) -> Tensor:
        blocks = _blocks(x, self._block)
        scale = (_largest(blocks, dim=2) / self.top).clamp(min=_smallest(x.dtype))
        codes = self._codes(blocks / scale.unsqueeze(2))
        return _packed(scale, codes.flatten(1)[:, : x.shape[1]])

    def decode(self, wire: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        scale, codes = _unpacked(wire, -(-n // self._block), dtype)
        return _times(self._levels(codes), scale, self._block)


class Int8(_Blockwise):
    """Whole numbers from -127 to 127: |error| <= s / 2, max |x| / 254 of the block."""

    top = 127.0

    def _codes(self, q: Tensor) -> Tensor:
        return q.round_().to(torch.int8)

    def _levels(self, codes: Tensor) -> Tensor:
        return codes.view(torch.int8)


class Float8(_Blockwise):
    """e4m3, 4 significant bits (2209.05433): |error| <= 2^-4 |x| + 2^-10 s. Better than int8 on small entries."""

    top = 448.0

    def _codes(self, q: Tensor) -> Tensor:
        return q.to(torch.float8_e4m3fn)

    def _levels(self, codes: Tensor) -> Tensor:
        return codes.view(torch.float8_e4m3fn)


class Sign(Codec):
    """One bit per entry: x -> s sign(x), with s = mean |x| over each `block` entries of a row, and sign(0) = 1.

    EF-SignSGD's compressor (1901.09847, algorithm 1), block by block: |s sign(x)|_1 = |x|_1. Padding is not counted in
    the mean. s is infinite where the sum of a block overflows.
    """

    def __init__(self, block: int) -> None:
        self._block = block

    def encode(self, x: Tensor, real: int) -> Tensor:
        rows, n = x.shape
        blocks = _blocks(x, self._block)
        row, block = torch.arange(rows, device=x.device), torch.arange(blocks.shape[1], device=x.device)
        in_row = (real - row * n).clamp(0, n)
        in_block = (in_row[:, None] - block * self._block).clamp(1, self._block)
        scale = torch.linalg.vector_norm(blocks, 1, dim=2) / in_block
        return _packed(scale, _pack_bits(x >= 0))

    def decode(self, wire: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        scale, bits = _unpacked(wire, -(-n // self._block), dtype)
        return _times(_unpack_signs(bits)[:, :n], scale, self._block)


def _pack_bits(bits: Tensor) -> Tensor:
    """bool [rows, n] -> uint8 [rows, ceil(n / 8)], the first entry in the lowest bit.

    Eight bools are one int64 whose bytes are 0 or 1; the multiplication shifts byte i to bit 56 + i, without carries.
    """
    eights = _filled(bits, 8).flatten().view(torch.int64)
    return (eights * 0x0102040810204080 >> 56).to(torch.uint8).view(bits.shape[0], -1)


def _unpack_signs(packed: Tensor) -> Tensor:
    """uint8 [rows, m] -> int8 [rows, 8 m]: -1 for a 0 bit, 1 for a 1 bit."""
    return _eight_signs(packed.device)[packed.to(torch.int64)].view(torch.int8)


@cache
def _eight_signs(device: torch.device) -> Tensor:
    """int64 [256]: for each byte the signs of its bits, from the lowest, as the eight bytes of a number."""
    bits = torch.arange(256).unsqueeze(1) >> torch.arange(8) & 1
    return (2 * bits - 1).to(torch.int8).view(torch.int64).flatten().to(device)


def _blocks(x: Tensor, block: int) -> Tensor:
    """[rows, n] -> [rows, ceil(n / block), block], zeros behind."""
    rows, n = x.shape
    return _filled(x, block).view(rows, -(-n // block), block)


def _filled(x: Tensor, block: int) -> Tensor:
    """With zeros behind, to a multiple of `block`; `pad` would write it all twice."""
    missing = -x.shape[1] % block
    return torch.cat((x, x.new_zeros(x.shape[0], missing)), dim=1) if missing else x.contiguous()


def _times(levels: Tensor, scale: Tensor, block: int) -> Tensor:
    """Levels [rows, n] times the scale [rows, ceil(n / block)] of their block, in the dtype of the scale."""
    rows, n = levels.shape
    filled = _filled(levels.view(torch.uint8), block).view(levels.dtype).to(scale.dtype)
    return filled.view(rows, -1 if n else 0, block).mul_(scale.unsqueeze(2)).flatten(1)[:, :n]


def _largest(x: Tensor, dim: int) -> Tensor:
    """max |x| along a dimension, 0 if it is empty, NaN if there is one; without a copy of |x|."""
    if not x.shape[dim]:
        return x.sum(dim)
    low, high = torch.aminmax(x, dim=dim)
    return torch.maximum(-low, high)


def _smallest(dtype: torch.dtype) -> float:
    """The least scale: its inverse is finite."""
    return torch.finfo(dtype).tiny


def _packed(scale: Tensor, codes: Tensor) -> Tensor:
    return torch.cat((_bytes(scale), _bytes(codes)), dim=1)


def _unpacked(wire: Tensor, scales: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The scales [rows, scales] and the bytes behind them."""
    at = scales * dtype.itemsize
    return numbers(wire[:, :at], dtype), wire[:, at:]


def _bytes(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)


def numbers(wire: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 [rows, bytes] -> [rows, bytes / size of an entry], for rows of any stride."""
    return wire.reshape(-1).view(dtype).view(wire.shape[0], -1)
