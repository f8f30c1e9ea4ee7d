"""The one order in which techniques are laid over a model."""

from __future__ import annotations

import functools
import os
import shutil

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from adts_api.errors import ConfigError
from adts_api.topology import resolved_engine
from adts_api.v1alpha1 import Spec
from adts_trainer.distributed_setup import Processes
from adts_trainer.model import BuiltModel, initial_parameter
from adts_trainer.parallel.data import ParallelModel, replicate, shard
from adts_trainer.precision import Formats


def parallelise(built: BuiltModel, spec: Spec, processes: Processes, formats: Formats) -> ParallelModel:
    """The model with recomputation, compilation, data parallelism and its initial weights, in this order.

    Recomputation and compilation change a layer in place and no parameter's name. Sharding comes before the weights
    exist, so that no rank ever holds all of them; replication needs them first.
    """
    seed = spec.training.seed
    if spec.training.activation_checkpointing == "full":
        _recompute(built)
    if spec.training.compile:
        _compile(built, processes.device)
    if resolved_engine(spec) == "native":
        _equalise(built, processes)
        model = shard(built, processes, spec.zero.stage, formats)
        _materialise(built, processes.device, seed)
        return model
    _materialise(built, processes.device, seed)
    _equalise(built, processes)
    return replicate(built, processes, spec.communication.bucket_megabytes)


def _recompute(built: BuiltModel) -> None:
    """Keep each layer's input only, and run its forward again in the backward pass (1604.06174)."""
    if not built.layers:
        raise ConfigError(
            "spec.training.activationCheckpointing: full recomputes repeated layers, but the model has no ModuleList "
            "of them; keep the layers in a torch.nn.ModuleList, or use none"
        )
    for layer in built.layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def _compile(built: BuiltModel, device: torch.device) -> None:
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise ConfigError(
            "spec.training.compile: true needs a C++ compiler on CPU, and neither g++ nor clang++ is on PATH; install "
            "one, or use false"
        )
    for module in built.layers or [built.module]:
        module.compile()


def _equalise(built: BuiltModel, processes: Processes) -> None:
    """Give every rank the lead's weights of a foreign model, whose construction may be random."""
    if built.on_meta:
        return
    built.module.to(processes.device)
    if processes.world_size > 1:
        for tensor in (*built.module.parameters(), *built.module.buffers()):
            dist.broadcast(tensor.detach(), src=0)


@torch.no_grad()
def _materialise(built: BuiltModel, device: torch.device, seed: int) -> None:
    """Storage and initial weights of a built-in model, one parameter at a time. A tied parameter is one parameter."""
    if not built.on_meta:
        built.module.to(device)
        return
    built.module.to_empty(device=device)
    for name, parameter in built.module.named_parameters():
        _fill(parameter, initial_parameter(built.module, name, parameter.shape, parameter.dtype, seed))


def _fill(parameter: nn.Parameter, full: Tensor) -> None:
    if isinstance(parameter, DTensor):
        part = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.to_local().copy_(part.to_local())
    else:
        parameter.copy_(full)
