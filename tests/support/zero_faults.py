"""DeepSpeed as one would use it who does not know its traps: each function undoes one precaution in a rank."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from adts_trainer.batch import Batch
from adts_trainer.context import RankContext
from adts_trainer.parallel import zero
from adts_trainer.parallel.zero_pipeline import ZeroPipeline


def unmarked_cuts(context: RankContext) -> None:
    """No parameter is marked as one that tensor parallelism cut."""
    from deepspeed.runtime.zero import stage3, stage_1_and_2

    for module in (stage_1_and_2, stage3):
        module.is_model_parallel_parameter = lambda parameter: False


def default_clipping(context: RankContext) -> None:
    """`gradient_clipping` is left out of the configuration."""
    _leave_out("gradient_clipping")


def activations_in_parts(context: RankContext) -> None:
    """`pipeline` is left out of the configuration: a tensor rank sends its part of what it takes to be on all."""
    _leave_out("pipeline")


def _leave_out(key: str) -> None:
    original = zero.zero_config

    def without(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: value for name, value in original(*args, **kwargs).items() if name != key}

    zero.zero_config = without


def averaged_loss(context: RankContext) -> None:
    """The loss is not multiplied by what DeepSpeed divides gradients by."""
    original = zero.ZeroModel._backward

    def backward(self: zero.ZeroModel, loss: Any, factor: float) -> None:
        original(self, loss, factor / self._processes.data_ranks)

    zero.ZeroModel._backward = backward  # type: ignore[method-assign]


def averaged_pipeline(context: RankContext) -> None:
    """The loss is not multiplied by the data ranks and micro-batches by which a pipeline divides."""
    original = ZeroPipeline.step

    def step(self: ZeroPipeline, batch: Batch, factor: float) -> Tensor:
        return original(self, batch, factor / (self._processes.data_ranks * self._micro_batches))

    ZeroPipeline.step = step  # type: ignore[method-assign]


def copies_added_by_deepspeed(context: RankContext) -> None:
    """The tied gradients are added as by PipelineEngine._exec_reduce_tied_grads: what is in `weight.grad`, if any."""

    def add_up(self: ZeroPipeline, engine: Any) -> None:
        for place in self._layout.places:
            if place.name == "token_embedding.weight" and place.parameter.grad is not None:
                dist.all_reduce(place.parameter.grad, group=self._layout.tied)

    ZeroPipeline._add_up_copies = add_up  # type: ignore[method-assign]


def copies_that_both_count(context: RankContext) -> None:
    """A copy of the embedding is not marked as one."""
    original = ZeroPipeline.module

    def module(self: ZeroPipeline, deepspeed: Any) -> nn.Module:
        result = original(self, deepspeed)
        for parameter in result.parameters():
            parameter.ds_pipe_replicated = False  # type: ignore[attr-defined]
        return result

    ZeroPipeline.module = module  # type: ignore[method-assign]


def nan_in_the_last_stage(context: RankContext) -> None:
    """The loss of the sixth step is no number on the last of two stages, once."""
    original, calls = ZeroPipeline._scaled_loss, 0

    def scaled_loss(self: ZeroPipeline, output: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        loss = original(self, output, targets)
        return loss * float("nan") if calls == 5 * self._micro_batches + 1 else loss

    ZeroPipeline._scaled_loss = scaled_loss  # type: ignore[method-assign]


def killed_while_compiling(context: RankContext) -> None:
    """A process was killed while it compiled DeepSpeed's collectives in shared memory, and left its lock."""
    folder = context.run_dir / "extensions"
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    (folder / "deepspeed_shm_comm").mkdir(parents=True, exist_ok=True)
    (folder / "deepspeed_shm_comm" / "lock").touch()
