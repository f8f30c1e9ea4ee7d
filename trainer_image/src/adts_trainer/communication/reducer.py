"""Sums gradients over the replicas of a model while the backward pass still runs, compressed where the spec says so.

Gradients are named and shaped: they are taken where autograd has accumulated them, after FSDP2 has summed over its
shards. A bucket travels when all of it is there and every earlier bucket has left, so that all ranks send in one order.
One thread does it, in a process group of its own, so that collectives in several steps need no help of the backward.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adts_trainer.communication.bucket import Bucket, Build, Policy
from adts_trainer.communication.bucket_layout import MEBIBYTE, Named, lay_out, local
from adts_trainer.communication.channel import Channel
from adts_trainer.communication.wire import Wire, sent_by_all_reduce


@dataclass
class Traffic:
    """What the last step cost on this rank."""

    sent_bytes: int = 0
    exact_bytes: int = 0
    """What an uncompressed sum would have sent."""
    busy_seconds: float = 0.0
    """Compression and collectives, whatever ran beside them."""
    exposed_seconds: float = 0.0
    """Of these, what the step waited for after its backward pass."""
    step_seconds: float = 0.0
    """From `begin` to the end of the step."""

    @property
    def hidden_seconds(self) -> float:
        """What ran beside the backward pass."""
        return max(0.0, self.busy_seconds - self.exposed_seconds)


Tune = Callable[[int, Traffic], Build | None]
"""Asked before every step, with what the last one cost: what to compress with from now on, None for as before."""


class Reducer:
    """One for all parameters of a rank. `begin` before the backward passes of a step, `finish` after them, and then
    `commit` or `drop`, as the whole job judged the step."""

    def __init__(
        self,
        parameters: Sequence[Named],
        wire: Wire,
        bucket_megabytes: float,
        *,
        policy: Policy | None = None,
        overlap: bool = True,
        tune: Tune | None = None,
    ) -> None:
        self.wire, self.policy, self._tune = wire, policy, tune
        self.traffic = Traffic()
        self._parameters = [(name, it) for name, it in parameters if it.requires_grad]
        self._limit, self._overlap = int(bucket_megabytes * MEBIBYTE), overlap
        self._thread = ThreadPoolExecutor(1, "gradients", functools.partial(_begin_on, [it for _, it in parameters]))
        self._ready: list[str] = []
        self._is_ordered = False
        self._step: tuple[int, Callable[[], float]] = (0, lambda: 1.0)
        self._begun = 0.0
        self._momentum: tuple[Callable[[nn.Parameter], Tensor | None], float] | None = None
        self._lay_out(self._parameters[::-1])
        for name, parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: self._arrived(name))

    def begin(self, step: int, gradients_per_parameter: int, unit: Callable[[], float]) -> None:
        """Say how often each parameter's gradient will be added to before it is complete, and ask for the number that
        makes a gradient true: it may wait for other ranks."""
        build = self._tune(step, self.traffic) if self._tune is not None else None
        if build is not None:
            self._compress_with(build)
        self._next, self._ready, self._step = 0, [], (step, unit)
        self.traffic, self._begun = Traffic(), time.perf_counter()
        self._sent_before = self.wire.sent
        is_lossy = self.policy is not None and step >= self.policy.warmup_steps and self._has_momentum()
        for bucket in self.buckets:
            bucket.missing = gradients_per_parameter * len(bucket.rows)
            bucket.use(lossy=is_lossy)

    def finish(self) -> None:
        """Send what is left, wait for everything."""
        while self._next < len(self.buckets):
            self._send()
        begin = time.perf_counter()
        for bucket in self.buckets:
            if bucket.done is not None:
                bucket.done.result()
                bucket.done = None
        self.traffic.exposed_seconds = time.perf_counter() - begin
        self.traffic.sent_bytes = self.wire.sent - self._sent_before
        self.traffic.exact_bytes = sum(sent_by_all_reduce(it.nbytes, self.wire.size) for it in self.buckets)

    def commit(self) -> None:
        """The step was taken: what compression left out of it is added to the next gradient."""
        for bucket in self.buckets:
            if bucket.channel is not None:
                bucket.channel.commit()

    def drop(self) -> None:
        """The end of a step; if it was not taken, all is as before it."""
        for bucket in self.buckets:
            if bucket.channel is not None:
                bucket.channel.drop()
        self.traffic.step_seconds = time.perf_counter() - self._begun

    def with_momentum(self, momentum: Callable[[nn.Parameter], Tensor | None], beta: float) -> None:
        """Let new momenta travel in the place of gradients, as soon as `momentum` has one."""
        self._momentum = (momentum, beta)
        self._set_momentum()

    def settle(self) -> None:
        """Fix the order of buckets by that in which the gradients of the first rank were ready in the last step; its
        results are to be dropped. All ranks call it, before any step that counts."""
        if self._is_ordered or self.wire.size == 1:
            return
        order: list[list[str]] = [self._ready]
        dist.broadcast_object_list(order, group=self.wire.group, group_src=0)
        known = dict(self._parameters)
        self._lay_out([(name, known[name]) for name in dict.fromkeys([*order[0], *known])])
        self._is_ordered = True

    def residuals(self) -> dict[str, Tensor]:
        """A copy of what this rank left out, by parameter, in the shape of what it holds of it: fp32 or fp64."""
        return self._by_name(lambda bucket, channel: channel.residual)

    def owner_residuals(self) -> dict[str, Tensor]:
        """What this rank left out as the owner of parts of buckets; zero elsewhere."""
        return self._by_name(lambda bucket, channel: bucket.spread_out(channel.owner_residual))

    def restore(self, own: dict[str, Tensor], owned: dict[str, Tensor], states: dict[str, Tensor]) -> None:
        """Go on from `residuals()`, from `owner_residuals()` added up over all ranks, and from `states()`."""
        for bucket in self.buckets:
            if bucket.channel is not None:
                bucket.restore(bucket.joined(own), bucket.joined(owned))
                bucket.lossy_or_exact.restore(states)

    def states(self) -> dict[str, Tensor]:
        """What compressors build on beside residuals, by the names of their pieces."""
        return {name: value for it in self.buckets for name, value in it.lossy_or_exact.state().items()}

    def _compress_with(self, build: Build) -> None:
        assert self.policy is not None
        self.policy = replace(self.policy, build=build)
        for bucket in self.buckets:
            bucket.compress_with(build)

    def _by_name(self, flat_of: Callable[[Bucket, Channel], Tensor | None]) -> dict[str, Tensor]:
        found = {name: torch.zeros_like(local(it.detach())) for name, it in self._parameters}
        for bucket in self.buckets:
            flat = flat_of(bucket, bucket.channel) if bucket.channel is not None else None
            if flat is not None:
                bucket.place(flat, found)
        return found

    def _lay_out(self, parameters: Sequence[Named]) -> None:
        applies = self.policy.applies_to if self.policy is not None else lambda *_: False
        plan = lay_out(parameters, self._limit, applies)
        self.buckets = [Bucket(rows, self.wire, self.policy, is_lossy=is_lossy) for rows, is_lossy in plan]
        self._of: dict[str, list[Bucket]] = defaultdict(list)
        for bucket in self.buckets:
            for rows in bucket.rows:
                self._of[rows.name].append(bucket)
        self._next = len(self.buckets)
        self._set_momentum()

    def _has_momentum(self) -> bool:
        """Unless it is one of gradients that is to travel: steps that were left out make the warm-up longer."""
        return self._momentum is None or self._momentum[0](self._parameters[0][1]) is not None

    def _set_momentum(self) -> None:
        if self._momentum is not None:
            for bucket in self.buckets:
                bucket.momentum, bucket.beta = self._momentum

    def _arrived(self, name: str) -> None:
        if self._overlap and not self._is_ordered:
            self._ready.append(name)
        for bucket in self._of[name]:
            bucket.missing -= 1
        while self._overlap and self._next < len(self.buckets) and self.buckets[self._next].missing <= 0:
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[self._next]
        self._next += 1
        bucket.done = self._thread.submit(self._reduce, bucket)

    def _reduce(self, bucket: Bucket) -> None:
        begin = time.perf_counter()
        bucket.reduce(*self._step)
        self.traffic.busy_seconds += time.perf_counter() - begin


def _begin_on(parameters: Sequence[nn.Parameter]) -> None:
    """A thread begins on the first GPU, whatever the device of the one that started it."""
    if parameters and parameters[0].device.type == "cuda":
        torch.cuda.set_device(parameters[0].device)
