"""FSDP2's reduce-scatter in fewer bytes: rounded once before it is sent, added up in full precision where it arrives.

There is no error feedback: a residual is as large as the whole gradient, on every rank, and sharding is to save that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from adts_trainer.communication.codecs import BFloat16, Codec, Float16
from adts_trainer.communication.wire import Wire

CODECS: dict[str, Codec] = {"bf16": BFloat16(), "fp16": Float16()}
"""Values of `precision.reduceDtype` that round."""


class RoundedReduceScatter:
    """In the place of FSDP2's own, see `FSDPModule.set_custom_reduce_scatter`."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer for what comes in or goes out."""
        return torch.empty(math.prod(size), dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        """Sum all ranks' inputs [W n]; this rank's part [n] into the output. FSDP2 is told to sum, never to average."""
        wire = Wire(group)
        rows = input_tensor.view(wire.size, -1)
        n = rows.shape[1]
        received = wire.all_to_all(self._codec.encode(rows, input_tensor.numel()))
        torch.sum(self._codec.decode(received, n, input_tensor.dtype), dim=0, out=output_tensor)
