"""Pipeline parallelism: stages of consecutive layers, driven by a schedule of torch.distributed.pipelining.

A stage gets activations from the stage before; dropout keys and targets come from the rank's own data, for all ranks of
a pipeline read the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, get_schedule_class

from adts_api.pipelining import rank_of_stage, stage_indices, stages_per_rank
from adts_api.training import Parallelism
from adts_trainer.batch import Batch
from adts_trainer.distributed_setup import Processes
from adts_trainer.model import Loss


@dataclass(frozen=True)
class Shapes:
    """What one micro-batch is on its way: known beforehand, so that no stage has to try it out."""

    samples: int
    sequence: int
    """Positions of a sample."""
    positions: int
    """Of them, those that a rank has between two layers."""
    features: int
    logits: int
    """Features of the output on this rank."""
    dtype: torch.dtype

    @property
    def ids(self) -> Tensor:
        return torch.empty(self.samples, self.sequence, dtype=torch.int64, device="meta")

    @property
    def activations(self) -> Tensor:
        return self._floats(self.positions, self.features)

    @property
    def output(self) -> Tensor:
        return self._floats(self.sequence, self.logits)

    def _floats(self, positions: int, features: int) -> Tensor:
        shape = (self.samples, positions, features)
        return torch.empty(shape, dtype=self.dtype, device="meta", requires_grad=True)


class Passes(Protocol):
    """The forward and backward passes of a pipeline, whoever drives them."""

    def step(self, batch: Batch, factor: float) -> Tensor:
        """Gradients of `factor` times the sum of losses; the sum, 0-dim, which is 0 where the last stage is not."""

    def evaluate(self, batch: Batch) -> Tensor:
        """The sum of losses, as of `step`, of as many samples as a step has."""


class Pipeline:
    """This rank's stages and their schedule."""

    def __init__(
        self, spec: Parallelism, parts: Sequence[nn.Module], shapes: Shapes, loss: Loss, processes: Processes
    ) -> None:
        """`parts`: the modules of this rank's stages, in the order of `stage_indices`."""
        indices = stage_indices(spec.schedule, processes.coordinates.pp, spec.pipeline)
        last = spec.pipeline * len(indices) - 1
        stages = [
            PipelineStage(
                part,
                index,
                last + 1,
                processes.device,
                input_args=shapes.ids if index == 0 else shapes.activations,
                output_args=shapes.output if index == last else shapes.activations,
                group=processes.group("pp"),
            )
            for index, part in zip(indices, parts, strict=True)
        ]
        self.has_loss = last in indices
        self._has_input = 0 in indices
        self._loss, self._factor = loss, 1.0
        self._loss_sum = torch.zeros((), device=processes.device)
        kind = get_schedule_class(spec.schedule)
        driven = stages if issubclass(kind, PipelineScheduleMulti) else stages[0]
        self._schedule = kind(driven, spec.microbatches, loss_fn=self._scaled_loss, scale_grads=False)

    def step(self, batch: Batch, factor: float) -> Tensor:
        """Gradients of `factor` times the sum of losses; the sum, 0-dim, which is 0 where the last stage is not."""
        return self._run(batch, factor, self._schedule.step)

    def evaluate(self, batch: Batch) -> Tensor:
        """The sum of losses, as of `step`, of as many samples as a step has."""
        return self._run(batch, 1.0, self._schedule.eval)

    def _run(self, batch: Batch, factor: float, run: Callable[..., object]) -> Tensor:
        self._factor, self._loss_sum = factor, torch.zeros_like(self._loss_sum)
        inputs = (batch.inputs,) if self._has_input else ()
        target = {"target": batch.targets} if self.has_loss else {}
        run(*inputs, keys=batch.keys, return_outputs=False, **target)  # logits of all would stay to the end
        return self._loss_sum

    def _scaled_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        loss = self._loss(output, targets)
        self._loss_sum = self._loss_sum + loss.detach()
        return loss * self._factor


def tied_group(spec: Parallelism, processes: Processes) -> dist.ProcessGroup | None:
    """The two ranks of this pipeline that have the embedding and its second copy; None on all others, and where one
    rank has both. Every rank of the job calls it."""
    degree, world = spec.pipeline, processes.world_size
    last = rank_of_stage(spec.schedule, degree * stages_per_rank(spec.schedule) - 1, degree)
    if last == 0:
        return None
    ranks = world // degree  # of one stage; pp is the slowest axis of the mesh
    own = None
    for first in range(ranks):
        pair = [first, first + last * ranks]
        group = dist.new_group(pair)
        if processes.rank in pair:
            own = group
    return own
