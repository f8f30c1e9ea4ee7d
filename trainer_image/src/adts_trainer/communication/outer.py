"""Steps between replicas that train apart: each makes some steps of its own, then all go on from one common point.

DiLoCo (2311.08105, algorithm 1): after H inner steps, the outer gradient of each replica is the common start minus its
parameters; SGD with Nesterov momentum applies their mean to the start. With a learning rate of 1 and no momentum the
result is the mean of the parameters: local SGD (1805.09767). Outer gradients are summed as gradients are, in the same
buckets and through the same compressors, whose residuals are then in units of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adts_trainer.communication.bucket_layout import Named, local
from adts_trainer.communication.reducer import Reducer, Traffic
from adts_trainer.errors import DivergedError


class OuterStep:
    """One for all parameters of a rank: `begin` before each inner step; after the last of a round `collect`, `exchange`
    and `apply`, on all ranks. Then all replicas hold the same bits, if they did at the start of the round."""

    def __init__(
        self, parameters: Sequence[Named], reducer: Reducer, *, every: int, learning_rate: float, momentum: float
    ) -> None:
        self.reducer, self.every = reducer, every
        """What sums outer gradients; inner steps in a round, but for one that ends early."""
        self.traffic: Traffic | None = None
        """The last exchange as a mean over the inner steps before it; None before the first. `exact_bytes` is what an
        uncompressed sum in each of them would have sent."""
        self._parameters = [(name, it) for name, it in parameters if it.requires_grad]
        self._rate, self._factor = learning_rate, momentum
        self.momentum: dict[str, Tensor] = {}
        """By parameter, in the shape and dtype of what this rank holds of it; empty without momentum. Equal on all
        replicas."""
        if momentum:
            self.momentum = {name: torch.zeros_like(local(it.detach())) for name, it in self._parameters}
        self._start: dict[str, Tensor] = {}
        self._inner_steps = 0

    def begin(self) -> None:
        """Before an inner step: the first of a round starts where all replicas are."""
        if not self._start:
            self._start = {name: local(it.detach()).clone() for name, it in self._parameters}
        self._inner_steps += 1

    def restart(self) -> None:
        """The parameters were written by somebody else, to the same on all replicas: the next round starts there, with
        no momentum."""
        self._start, self._inner_steps = {}, 0
        for momentum in self.momentum.values():
            momentum.zero_()

    def is_due(self, steps_done: int) -> bool:
        """Whether a round ends after so many steps of the training. Rounds do not depend on where a run was resumed."""
        return steps_done % self.every == 0

    @torch.no_grad()
    def collect(self) -> None:
        """Put this replica's outer gradient where gradients are."""
        for name, parameter in self._parameters:
            parameter.grad = torch.empty_like(parameter)
            torch.sub(self._start[name], local(parameter.detach()), out=local(parameter.grad))

    def exchange(self, step: int) -> None:
        """Sum outer gradients over the replicas, in place. `step`: number of the last inner step, from 0."""
        self.reducer.begin(step, 1, lambda: 1.0)
        self.reducer.finish()

    @torch.no_grad()
    def apply(self, step: int) -> None:
        """Nesterov's step from the start by the mean, as torch.optim.SGD makes it; the next round begins there.

        Raises DivergedError where a sum is not finite: then some replica's parameters are not.
        """
        sums = {name: local(it.grad) for name, it in self._parameters if it.grad is not None}
        if not torch.stack([torch.isfinite(it).all() for it in sums.values()]).all():
            raise DivergedError(
                f"step {step + 1}: the outer gradient is not finite; lower spec.optimizer.learningRate or "
                "spec.communication.outerLearningRate"
            )
        for name, parameter in self._parameters:
            gradient = sums[name].div_(self.reducer.wire.size)
            momentum, start = self.momentum.get(name), self._start[name]
            if momentum is not None:
                gradient.add_(momentum.mul_(self._factor).add_(gradient), alpha=self._factor)
            start.sub_(gradient, alpha=self._rate)
            local(parameter.detach()).copy_(start)
        self.reducer.commit()
        self.reducer.drop()
        self._end_round()

    def _end_round(self) -> None:
        last, steps = self.reducer.traffic, self._inner_steps
        self.traffic = replace(
            last,
            sent_bytes=last.sent_bytes // steps,
            busy_seconds=last.busy_seconds / steps,
            exposed_seconds=last.exposed_seconds / steps,
        )
        self._inner_steps = 0
