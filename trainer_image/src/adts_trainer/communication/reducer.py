"""Sums gradients over the replicas of a sharded model while the backward pass still runs.

FSDP2 sums over `dp_shard` only; over `dp_replicate` it is this. Gradients are collected in buckets in the reverse order
of the parameters, which is about the order in which they come. A bucket travels when all of it is there and every
earlier bucket has left, so that all ranks send in one order whatever comes first on each.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_MEBIBYTE = 1024 * 1024


class Bucket:
    """Gradients that travel together."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = 0
        self._flat: Tensor | None = None
        self._work: dist.Work | None = None

    @property
    def is_sent(self) -> bool:
        return self._work is not None

    def send(self, group: dist.ProcessGroup) -> None:
        """Start the sum of what is there; parameters without a gradient have none on any rank."""
        gradients = self._gradients()
        if gradients:
            self._flat = torch.cat([gradient.flatten() for gradient in gradients])
            self._work = dist.all_reduce(self._flat, group=group, async_op=True)

    def receive(self) -> None:
        """Wait, and put the sums where the gradients were."""
        if self._work is None or self._flat is None:
            return
        self._work.wait()
        gradients = self._gradients()
        sums = self._flat.split([gradient.numel() for gradient in gradients])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view_as(gradient))
        self._flat = self._work = None

    def _gradients(self) -> list[Tensor]:
        return [local(parameter.grad) for parameter in self.parameters if parameter.grad is not None]


class Reducer:
    """One for all parameters of a rank. `begin` before the backward passes of a step, `finish` after them."""

    def __init__(self, parameters: Iterable[nn.Parameter], group: dist.ProcessGroup, bucket_megabytes: float) -> None:
        self._group = group
        self._buckets = [Bucket(it) for it in _buckets(parameters, int(bucket_megabytes * _MEBIBYTE))]
        self._next = 0
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(lambda _, bucket=bucket: self._arrived(bucket))

    def begin(self, gradients_per_parameter: int) -> None:
        """Say how often each parameter's gradient will be added to before it is complete."""
        self._next = 0
        for bucket in self._buckets:
            bucket.missing = gradients_per_parameter * len(bucket.parameters)

    def finish(self) -> None:
        """Send what is left, wait for everything."""
        for bucket in self._buckets[self._next :]:
            bucket.send(self._group)
        self._next = len(self._buckets)
        for bucket in self._buckets:
            bucket.receive()

    def _arrived(self, bucket: Bucket) -> None:
        bucket.missing -= 1
        while self._next < len(self._buckets) and self._buckets[self._next].missing <= 0:
            self._buckets[self._next].send(self._group)
            self._next += 1


def local(gradient: Tensor) -> Tensor:
    """What this rank holds of a gradient."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _buckets(parameters: Iterable[nn.Parameter], limit: int) -> list[list[nn.Parameter]]:
    """Parameters in reverse order in lists of about `limit` bytes."""
    lists: list[list[nn.Parameter]] = []
    size = limit
    for parameter in reversed([it for it in parameters if it.requires_grad]):
        own = local(parameter.detach())
        if size + own.nbytes > limit:
            lists.append([])
            size = 0
        lists[-1].append(parameter)
        size += own.nbytes
    return lists
