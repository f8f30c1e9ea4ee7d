"""DeepSpeed's own pipeline: its PipelineModule and its 1F1B (2006.09503) over the stages of our partition.

DeepSpeed is given one layer for every stage, which is the stage itself: so its boundaries are ours, and parameters keep
their names. Three things are taken out of its hands, by what it offers for that:

dropout keys    every stage has those of its own samples; activations alone travel
tied gradients  it adds `weight.grad` of the copies, which is None where sums are kept in fp32, and then adds nothing
update          asked for by the loop, which first judges the norm
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adts_trainer.batch import Batch
from adts_trainer.distributed_setup import Processes
from adts_trainer.parallel.places import Layout


class Stage(nn.Module):
    """This rank's stage as one layer of a pipeline: activations in, activations out."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.keys: Iterator[Tensor] = iter(())
        """Dropout keys int64 [B] of the micro-batches, in the order of their forward passes, which 1F1B keeps."""

    def forward(self, x: Tensor) -> Tensor:
        """Token ids int64 [B, T] or activations [B, T, H] -> activations, or logits [B, T, V] from the last stage."""
        output: Tensor = self.part(x, next(self.keys))
        return output


class ZeroPipeline:
    """Runs the passes of one step over DeepSpeed's pipeline engine."""

    _engine: Any  # deepspeed.runtime.pipe.engine.PipelineEngine, which has no types

    def __init__(self, layout: Layout, micro_batches: int, processes: Processes) -> None:
        self._stage, self._loss = Stage(layout.parts[0]), layout.loss
        self._layout, self._micro_batches, self._processes = layout, micro_batches, processes
        self._factor = 1.0
        self._loss_sum = torch.zeros((), device=processes.device)

    def module(self, deepspeed: Any) -> nn.Module:
        """DeepSpeed's PipelineModule. Its ranks are numbered as in our mesh: tensor fastest, then data, then stages."""
        mesh, pipe = self._processes.layout, deepspeed.runtime.pipe
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            module: nn.Module = pipe.PipelineModule(
                [self._stage] * mesh.pp,  # each rank takes one of them
                topology=pipe.topology.PipeModelDataParallelTopology(num_pp=mesh.pp, num_mp=mesh.tp, num_dp=mesh.dp),
                loss_fn=self._scaled_loss,
                partition_method="uniform",
            )
        for place in self._layout.places:
            if place.is_copy:  # or it would count in the norm
                place.parameter.ds_pipe_replicated = True  # type: ignore[attr-defined]
        return module

    def drive(self, engine: Any, deepspeed: Any) -> None:
        """Take over the engine that was built of `module`."""
        instructions = deepspeed.runtime.pipe.schedule
        engine._INSTRUCTION_MAP = engine._INSTRUCTION_MAP | {
            instructions.ReduceTiedGrads: self._add_up_copies,
            instructions.OptimizerStep: lambda _: None,
        }
        self._engine = engine

    def step(self, batch: Batch, factor: float) -> Tensor:
        """Gradients of `factor` times the sum of losses, reduced; the sum, 0-dim, 0 where the last stage is not."""
        engine = self._engine
        undone = self._processes.data_ranks * self._micro_batches / engine.optimizer.loss_scale
        engine.total_loss = None
        self._run(batch, factor * undone, engine._train_schedule())
        return self._loss_sum

    def evaluate(self, batch: Batch) -> Tensor:
        """The sum of losses, as of `step`, of as many samples as a step has."""
        self._run(batch, 1.0, self._engine._inference_schedule(self._micro_batches))
        return self._loss_sum

    def _run(self, batch: Batch, factor: float, schedule: Any) -> None:
        self._factor, self._loss_sum = factor, torch.zeros_like(self._loss_sum)
        parts = batch.split(self._micro_batches)
        self._stage.keys = iter([part.keys for part in parts])
        self._engine.set_dataiterator(iter([(part.inputs, part.targets) for part in parts]))
        self._engine._compute_loss = True
        self._engine._exec_schedule(schedule)

    def _add_up_copies(self, engine: Any) -> None:
        """One gradient for the embedding and its copy on the last stage, over both ranks that have one."""
        if self._layout.tied is None:
            return
        for place in self._layout.places:
            if place.name == "token_embedding.weight":
                gradient = engine.optimizer.get_gradient_for_reduction(place.parameter)
                dist.all_reduce(gradient, group=self._layout.tied)

    def _scaled_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        loss = self._loss(output, targets)
        self._loss_sum = self._loss_sum + loss.detach()
        return loss * self._factor
