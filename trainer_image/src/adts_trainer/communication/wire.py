"""The collectives of one process group, counted in bytes: all that compressors know of the network."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class Wire:
    """Blocking collectives over a group, for tensors on its device; every rank calls them in the same order.

    `sent` counts the bytes that this rank puts on the links when the collective runs as a ring or pairwise, as gloo and
    NCCL do for large tensors: 2 (W - 1) / W of an all-reduce's input, (W - 1) / W of an all-to-all's, (W - 1) times an
    all-gather's, for W ranks.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.size = group.size()
        """Ranks, W."""
        self.rank = group.rank()
        """This rank's index in the group."""
        self.sent = 0
        """Bytes since the start."""

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum in place, in the tensor's own dtype."""
        if self.size > 1 and tensor.numel():
            dist.all_reduce(tensor, group=self.group)
            self.sent += sent_by_all_reduce(tensor.nbytes, self.size)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor, stacked in the order of ranks: [...] -> [W, ...]. 8-bit floats travel as bytes."""
        gathered = torch.empty((self.size, *tensor.shape), dtype=tensor.dtype, device=tensor.device)
        if tensor.numel():
            # torch 2.11 and 2.13 have no other name in common for the gathering of one tensor
            parts = [_plain(it) for it in gathered.unbind(0)]
            dist.all_gather(parts, _plain(tensor.contiguous()), group=self.group)
            self.sent += tensor.nbytes * (self.size - 1)
        return gathered

    def all_to_all(self, rows: Tensor) -> Tensor:
        """Row j goes to rank j; row j of the result came from rank j: [W, ...] -> [W, ...]."""
        received = torch.empty_like(rows)
        if rows.numel():
            dist.all_to_all_single(_plain(received), _plain(rows.contiguous()), group=self.group)
            self.sent += rows.nbytes * (self.size - 1) // self.size
        return received


def sent_by_all_reduce(nbytes: int, ranks: int) -> int:
    """Bytes that each of some ranks sends when a tensor is summed in a ring: all but a share of it, twice."""
    return 2 * nbytes * (ranks - 1) // ranks


def _plain(tensor: Tensor) -> Tensor:
    """The same storage in a dtype that gloo knows, flat for collectives that join and split the first dimension."""
    return tensor.view(torch.uint8).view(-1) if tensor.dtype.itemsize == 1 else tensor.view(-1)
