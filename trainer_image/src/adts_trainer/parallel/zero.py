"""ZeRO by DeepSpeed: the one file that imports it, and does so when an engine is built.

DeepSpeed keeps fp32 masters, gradients and optimizer state of this rank's share in flat tensors beside the model, whose
parameters are in the compute format. Five things are taken out of its hands, by what it offers for that:

backward    its average over the data ranks cannot be switched off: the loss is multiplied by their number
norm        asked for before the step, so that the loop can judge it; the step is handed the same again
clipping    is off; the optimizer's own pre-step hook scales the gradients, which are fp32 and unscaled by then
dropping    a step whose norm is DeepSpeed's word for "not finite" (-1) is left out by all ranks, with all clean-up
compiling   nothing of its C++ is compiled: not its collectives in shared memory, not its optimizers
"""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adts_api.training import Precision
from adts_api.v1alpha1 import Spec
from adts_trainer.batch import Batch
from adts_trainer.checkpoint_region import Home, Pieces
from adts_trainer.distributed_setup import Processes
from adts_trainer.model import forward
from adts_trainer.parallel.model import ParallelModel
from adts_trainer.parallel.places import Layout, Place
from adts_trainer.parallel.zero_config import zero_config
from adts_trainer.parallel.zero_pipeline import ZeroPipeline
from adts_trainer.parallel.zero_scaler import ZeroScaler
from adts_trainer.precision import Formats, LossScaler


class ZeroModel(ParallelModel):
    """A layout whose state is sharded by DeepSpeed over the data ranks."""

    _engine: Any  # deepspeed.DeepSpeedEngine, which has no types
    _measure: Callable[[], Any]
    """DeepSpeed's own norm: of all parameters, or of each of its groups."""
    _step: Callable[[], None]
    _pipeline: ZeroPipeline | None

    def __init__(self, spec: Spec, layout: Layout, processes: Processes, formats: Formats) -> None:
        micro_batches, is_pipelined = spec.parallelism.microbatches, processes.layout.pp > 1
        pipeline = ZeroPipeline(layout, micro_batches, processes) if is_pipelined else None
        super().__init__(spec.model, layout, "deepspeed", spec.zero.stage, processes, formats, pipeline=pipeline)
        self._config = zero_config(spec, processes.layout, on_gpu=processes.device.type == "cuda")
        self._norm: Any = None
        self._factor = 1.0
        self._seen: set[str] = set()

    def attach(self, optimizer: torch.optim.Optimizer, spec: Precision) -> LossScaler:
        """Build the engine. From here on the parameters of stage 3 are empty between the passes."""
        self.optimizer = optimizer
        self._watch()
        for place in self.places:
            if place.cut is not None:  # or it counts every tensor rank's part of the norm as the same
                place.parameter.model_parallel = place.parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
        deepspeed, pipeline = _deepspeed(self._processes), self._pipeline
        self._engine, *_ = deepspeed.initialize(
            model=pipeline.module(deepspeed) if pipeline else self.parts[0],
            optimizer=optimizer,
            mpu=None if pipeline else _Groups(self._processes),  # PipelineModule has its own
            config=self._config,
            dist_init_required=False,
        )
        if pipeline:
            pipeline.drive(self._engine, deepspeed)
        zero = self._engine.optimizer
        name = "_get_norm_groups" if self.stage == 3 else "scaled_global_norm"
        self._measure = getattr(zero, name)
        setattr(zero, name, lambda: self._norm)
        self._step = self._engine._exec_optimizer_step if pipeline else self._engine.step
        optimizer.register_step_pre_hook(self._scale)
        return ZeroScaler(spec, zero.loss_scaler)

    def finish(self) -> None:
        """Nothing is left to do: backward has reduced, and hooks have added what ranks saw apart."""

    def idle(self) -> list[str]:
        """Trainable parameters that took no part in any step."""
        return [name for name, parameter in self.parameters if parameter.requires_grad and name not in self._seen]

    def norm(self) -> float:
        """Euclidean norm of the whole gradient times the loss scale; infinite where one entry is not finite."""
        with torch.no_grad():
            self._norm = self._measure()
        groups = [float(it) for it in (self._norm if self.stage == 3 else [self._norm])]
        return float("inf") if min(groups) < 0 else sum(it * it for it in groups) ** 0.5

    def update(self, rate: float, factor: float) -> None:
        """One step of the optimizer at a learning rate, with the gradients times `factor`."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._factor = factor * self._engine.optimizer.loss_scale  # by which DeepSpeed divides
        self._step()

    def drop(self) -> None:
        """Leave the step out. DeepSpeed takes it for an overflow, and lowers the loss scale of fp16."""
        invalid = torch.tensor(-1.0, device=self._processes.device)
        self._norm = [invalid] if self.stage == 3 else invalid
        self._step()

    def home(self, place: Place) -> Home:
        """The flat tensor with this rank's share of a parameter."""
        parameter, shape = place.parameter, getattr(place.parameter, "ds_shape", place.parameter.shape)
        flat, in_flat, first, count = self._share(parameter)
        return Home(flat, lambda like: Pieces.of(like.detach().narrow(0, in_flat, count), shape, first, place.cut))

    def refresh(self) -> None:
        """Copy the masters into the parameters, on all ranks."""
        zero = self._engine.optimizer
        if self.stage < 3:
            zero.update_lp_params()
            zero._hp_optimizer_states_linked = False
            return
        zero._partition_all_parameters()
        for number in range(len(zero.fp16_groups)):
            zero._reassign_or_swap_out_partitioned_parameters(number)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    def _share(self, parameter: nn.Parameter) -> tuple[Tensor, int, int, int]:
        """This rank's share of a parameter: (flat tensor, first entry there, first entry in the parameter, entries)."""
        if self.stage == 3:
            return self._share_of_stage_3(parameter)
        if not parameter.requires_grad:
            return parameter.view(-1), 0, 0, parameter.numel()
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        group = next(it for it in self._groups if any(p is parameter for p in it[0]))[1]
        if mapping is None:
            return group, 0, 0, 0
        inside, whole = mapping.hp_fragment_address, mapping.lp_fragment_address
        return group, inside.start, whole.start, inside.numel

    @property
    def _groups(self) -> Iterator[tuple[list[nn.Parameter], Tensor]]:
        zero = self._engine.optimizer
        return zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True)

    def _share_of_stage_3(self, parameter: Any) -> tuple[Tensor, int, int, int]:
        zero, size = self._engine.optimizer, parameter.ds_tensor.numel()
        first = min(size * self._processes.coordinates.dp_shard, parameter.ds_numel)
        count = min(size, parameter.ds_numel - first)  # the last ranks' shares are padded
        if not parameter.requires_grad:
            return parameter.ds_tensor.view(-1), 0, first, count
        number, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
        return zero.fp32_partitioned_groups_flat[number], offset, first, count

    def _forward(self, batch: Batch) -> Tensor:
        return forward(self._engine, batch.to(self._processes.device, self._formats.compute))

    def _backward(self, loss: Tensor, factor: float) -> None:
        factor *= self._processes.data_ranks / self._engine.optimizer.loss_scale  # both of which DeepSpeed undoes
        self._engine.backward(loss * factor, scale_wrt_gas=False)

    @contextmanager
    def _micro_batch(self, *, is_last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(is_last)
        yield

    def _scale(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Before each of the optimizer's steps, of which there is one for every group of parameters."""
        if self._factor != 1.0:
            torch._foreach_mul_([p.grad for group in optimizer.param_groups for p in group["params"]], self._factor)

    def _watch(self) -> None:
        """Note which parameters get gradients, and add up over the tensor ranks those that each saw a part of."""
        for place in self.places:
            if place.parameter.requires_grad:
                place.parameter.register_hook(lambda gradient, place=place: self._arrived(gradient, place))

    def _arrived(self, gradient: Tensor, place: Place) -> Tensor:
        self._seen.add(place.name)
        if not place.sees_a_part:
            return gradient
        total = gradient.to(self._formats.master, copy=True)
        dist.all_reduce(total, group=self._processes.group("tp"))
        return total.to(gradient.dtype)


class _Groups:
    """What DeepSpeed calls an mpu: who shares this rank's matrices (model parallel), and who its samples (data)."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """The tensor-parallel ranks."""
        return self._processes.group("tp")

    def get_model_parallel_rank(self) -> int:
        """Among the tensor-parallel ranks."""
        return self._processes.coordinates.tp

    def get_model_parallel_world_size(self) -> int:
        """Number of tensor-parallel ranks."""
        return self._processes.layout.tp

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """The ranks that share one copy of the state."""
        return self._processes.group("dp_shard")

    def get_data_parallel_rank(self) -> int:
        """Among the ranks that share one copy of the state."""
        return self._processes.coordinates.dp_shard

    def get_data_parallel_world_size(self) -> int:
        """Number of ranks that share one copy of the state."""
        return self._processes.layout.dp_shard


def _deepspeed(processes: Processes) -> Any:
    """The module, on our process group, silent, and without what it would compile."""
    os.environ["DS_ACCELERATOR"] = processes.device.type  # or it asks every kind of device, and says so
    os.environ["LOCAL_RANK"] = str(processes.device.index or 0)  # it reads no other variable of the rank's place
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # of its own calls
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else a minute of g++ at the first start
    if processes.device.type == "cpu":  # it refuses fp16 where the CPU has no instructions for it; torch only is slower
        deepspeed.accelerator.get_accelerator().is_fp16_supported = lambda: True
    engine = deepspeed.DeepSpeedEngine  # which has another optimizer for bf16 at stage 1, without a norm to ask for
    engine._configure_bf16_optimizer = engine._configure_zero_optimizer
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    _import_muon()
    return deepspeed


def _import_muon() -> None:
    """Import DeepSpeed's Muon, which it does anyway, without torch's compiler: its decorators would load that for two
    seconds, and no job of ours uses Muon."""
    from deepspeed.runtime import compiler

    original, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = original
