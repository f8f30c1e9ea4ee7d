"""A model laid over the ranks: what the loop, the optimizer and the checkpoints see of every engine alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from adts_api.training import Model, Precision
from adts_trainer.batch import Batch
from adts_trainer.checkpoint_region import Home, Region
from adts_trainer.communication.outer import OuterStep
from adts_trainer.communication.reducer import Reducer, Traffic
from adts_trainer.distributed_setup import Coordinates, Processes
from adts_trainer.errors import blame_user_code
from adts_trainer.feed import Share
from adts_trainer.model import forward
from adts_trainer.onebit_adam import OneBitAdam
from adts_trainer.optimizer import euclidean_norm, scale_gradients
from adts_trainer.parallel.pipeline import Passes
from adts_trainer.parallel.places import Layout, Place
from adts_trainer.precision import Formats, LossScaler


class ParallelModel:
    """Runs the passes of one step over a layout, and adds up what belongs together.

    This is ddp and native; `zero.ZeroModel` is the same for DeepSpeed.
    """

    optimizer: torch.optim.Optimizer
    """Of this rank's parameters; set by `attach`."""

    def __init__(
        self,
        spec: Model,
        layout: Layout,
        engine: str,
        stage: int,
        processes: Processes,
        formats: Formats,
        *,
        replica: DistributedDataParallel | None = None,
        pipeline: Passes | None = None,
        reducer: Reducer | None = None,
        outer: OuterStep | None = None,
    ) -> None:
        self.engine, self.stage = engine, stage
        """ddp or native; ZeRO stage."""
        self.replica, self.reducer = replica, reducer
        self.outer = outer
        """Where replicas train apart; then there is no other reducer than its own."""
        self.built, self.parts, self.places = layout.built, layout.parts, layout.places
        self._spec, self._layout, self._pipeline = spec, layout, pipeline
        self._processes, self._formats = processes, formats
        self._sharded = [m for part in layout.parts for m in part.modules() if isinstance(m, FSDPModule)]
        self._gradients: list[Tensor] = []
        self._judges = processes.replica_group() if outer is not None else None

    def attach(self, optimizer: torch.optim.Optimizer, spec: Precision) -> LossScaler:
        """Let an optimizer of `parameters` make the updates; the loss scaler that goes with it."""
        self.optimizer = optimizer
        if isinstance(optimizer, OneBitAdam) and self.reducer is not None:
            shares = {id(place.parameter): self._share(place) for place in self.places}
            momentum = functools.partial(_share_of_momentum, optimizer, shares)
            self.reducer.with_momentum(momentum, optimizer.param_groups[0]["betas"][0])
        return LossScaler(spec)

    @property
    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This rank's parameters by their names in the whole model."""
        return ((place.name, place.parameter) for place in self.places)

    @property
    def coordinates(self) -> Coordinates:
        """Of this rank in the mesh."""
        return self._processes.coordinates

    @property
    def is_pipelined(self) -> bool:
        return self._pipeline is not None

    @property
    def exchange(self) -> Reducer | None:
        """What sums over replicas, in each step or in outer ones, and has what compression left out."""
        return self.reducer if self.outer is None else self.outer.reducer

    @property
    def traffic(self) -> Traffic | None:
        """What our own sums over replicas cost in the last step, or in the mean of a last round."""
        if self.outer is not None:
            return self.outer.traffic
        return None if self.reducer is None else self.reducer.traffic

    def begin(self, step: int, micro_batches: int, unit: Callable[[], float]) -> None:
        """Before the passes of a step: `unit` times a gradient will be the true one; the function may wait for it."""
        if self.outer is not None:
            self.outer.begin()
        if self.reducer is not None:
            adds_each = (self.engine == "ddp" or self.stage >= 2) and self._pipeline is None
            self.reducer.begin(step, micro_batches if adds_each else 1, unit)

    def settle(self) -> None:
        """After the passes of a step that does not count: lay out what is best laid out as gradients come."""
        if self.reducer is not None:
            self.reducer.settle()

    def accumulate(self, share: Share, factor: float) -> Tensor:
        """Gradients of `factor` times the sum of losses; the sum of losses, 0-dim on the device, counted on one rank of
        those that have the same samples."""
        if self._pipeline is not None:
            return self._once(self._pipeline.step(share.batch, factor))
        loss_sum = torch.zeros((), dtype=self._formats.master, device=self._processes.device)
        factor *= self._processes.data_ranks if self.replica is not None else 1  # which ddp divides by
        for batch in share.micro_batches:
            with self._micro_batch(is_last=batch is share.micro_batches[-1]), blame_user_code(self._spec):
                loss = self._layout.loss(self._forward(batch), batch.targets)
                self._backward(loss, factor)
                loss_sum += loss.detach()
        return self._once(loss_sum)

    def finish(self) -> None:
        """Complete the gradients: wait for what travels, add what parts of the model saw apart from each other."""
        if self.reducer is not None:
            self.reducer.finish()
        apart = [place.gradient for place in self.places if place.sees_a_part]
        if apart:
            _add_up([it for it in apart if it is not None], self._processes.group("tp"))
        self._add_up_tied()
        self._gradients = [it for it in (place.gradient for place in self.places) if it is not None]

    def idle(self) -> list[str]:
        """Trainable parameters that took no part in the step, after `finish`."""
        return [name for name, parameter in self.parameters if parameter.requires_grad and parameter.grad is None]

    def norm(self) -> float:
        """Euclidean norm of the whole gradient, each of its entries counted once. All ranks call it. Replicas that
        train apart have a gradient each.

        Squares are added in fp64, so that a large but finite norm stays finite.
        """
        if self._processes.layout.dp_replicate == self._processes.world_size and self.engine == "ddp":
            return euclidean_norm(place.gradient for place in self.places).item()
        square = euclidean_norm(place.gradient for place in self.places if self._counts(place)).square()
        dist.all_reduce(square, group=self._judges)
        return square.sqrt().item()

    def update(self, rate: float, factor: float) -> None:
        """One step of the optimizer at a learning rate, with the gradients times `factor`, which are gone then."""
        scale_gradients(self._gradients, factor)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.reducer is not None:
            self.reducer.commit()
        self.drop()

    def synchronise(self, step: int) -> None:
        """Bring replicas that train apart together, after optimizer step `step`. All ranks call it, between steps."""
        assert self.outer is not None
        self.outer.collect()
        for gradient in self._tied_gradients():
            gradient.mul_(0.5)  # the two are equal, and their sum is what each of them gets
        self.outer.exchange(step)
        self._add_up_tied()
        self.outer.apply(step)
        self.drop()

    def drop(self) -> None:
        """Forget the gradients."""
        if self.reducer is not None:
            self.reducer.drop()
        self._gradients = []
        self.optimizer.zero_grad(set_to_none=True)

    def home(self, place: Place) -> Home:
        """Where the weights of a parameter are kept, and what belongs to them."""
        return Home(place.parameter, functools.partial(Region.of, cut=place.cut))

    def refresh(self) -> None:
        """Compute with the weights that were written where `home` says."""

    @torch.no_grad()
    def evaluate(self, batch: Batch, count: int) -> Tensor:
        """The sum of losses of the first `count` samples, counted as by `accumulate`."""
        for part in self.parts:
            part.eval()
        if self._pipeline is not None:
            total = self._pipeline.evaluate(batch.only(count))
        elif count:
            total = self._layout.loss(self._forward(batch)[:count], batch.targets[:count])
        else:
            self._forward(batch)  # the others wait for it
            total = torch.zeros((), device=self._processes.device)
        for part in self.parts:
            part.train()
        for module in self._sharded:
            module.reshard()
        return self._once(total)

    def _forward(self, batch: Batch) -> Tensor:
        module = self.replica if self.replica is not None and torch.is_grad_enabled() else self.parts[0]
        if self.engine == "native":
            return forward(module, batch)
        with self._formats.autocast(self._processes.device):
            return forward(module, batch)

    def _backward(self, loss: Tensor, factor: float) -> None:
        (loss * factor).backward()

    @contextmanager
    def _micro_batch(self, *, is_last: bool) -> Iterator[None]:
        """One forward and backward. ddp and native stages 0 and 1 add gradients up here and reduce them after the last;
        stages 2 and 3 reduce every time, since whole gradients are what they must not keep."""
        if self.replica is not None and not is_last:
            with self.replica.no_sync():
                yield
            return
        if self.stage < 2:
            for module in self._sharded:
                module.set_requires_gradient_sync(is_last, recurse=False)
                module.set_reshard_after_backward(is_last, recurse=False)
                module.set_is_last_backward(is_last)
        yield

    def _once(self, value: Tensor) -> Tensor:
        """The value on one of the tensor-parallel ranks, zero on the others."""
        return value if self._processes.coordinates.tp == 0 else torch.zeros_like(value)

    def _counts(self, place: Place) -> bool:
        """Whether this rank is the one that counts its part of a parameter."""
        at = self._processes.coordinates
        shard = self.engine == "native" or at.dp_shard == 0
        replica = at.dp_replicate == 0 or self.outer is not None
        return replica and shard and (place.cut is not None or at.tp == 0) and not place.is_copy

    def _add_up_tied(self) -> None:
        """One gradient for the embedding and its copy on the last stage."""
        gradients = self._tied_gradients()
        if self._layout.tied is not None:
            _add_up(gradients, self._layout.tied)
        elif gradients:
            total = torch.stack(gradients).sum(dim=0)
            for gradient in gradients:
                gradient.copy_(total)

    def _tied_gradients(self) -> list[Tensor]:
        """Those of this rank's embedding and copy of it, where the model has both."""
        both = [place.gradient for place in self.places if self._is_tied(place)]
        return [it for it in both if it is not None]

    def _is_tied(self, place: Place) -> bool:
        is_here = place.name in {it.name for it in self.places if it.is_copy}
        return is_here or (self._layout.tied is not None and place.name == "token_embedding.weight")

    def _share(self, place: Place) -> float:
        """What each of several ranks has to give of a whole whose parts `finish` adds up."""
        return (0.5 if self._is_tied(place) else 1.0) / (self._processes.layout.tp if place.sees_a_part else 1)


def _share_of_momentum(optimizer: OneBitAdam, shares: dict[int, float], parameter: nn.Parameter) -> Tensor | None:
    momentum = optimizer.momentum(parameter)
    return None if momentum is None else momentum * shares[id(parameter)]


def _add_up(gradients: list[Tensor], group: dist.ProcessGroup) -> None:
    for gradient in gradients:
        dist.all_reduce(gradient, group=group)
