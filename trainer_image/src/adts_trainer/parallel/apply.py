"""The one order in which techniques are laid over a model."""

from __future__ import annotations

import functools
import os
import shutil

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from adts_api.errors import ConfigError
from adts_api.topology import resolved_engine
from adts_api.v1alpha1 import Spec
from adts_trainer.communication import methods
from adts_trainer.communication.auto import Tuner, without
from adts_trainer.communication.bucket import Policy
from adts_trainer.communication.outer import OuterStep
from adts_trainer.communication.reducer import Reducer
from adts_trainer.communication.wire import Wire
from adts_trainer.distributed_setup import Processes
from adts_trainer.model import BuiltModel, initial_parameter
from adts_trainer.parallel.data import replicate, shard
from adts_trainer.parallel.model import ParallelModel
from adts_trainer.parallel.partition import Build, cut_parts, own_layers, own_stages, shapes, tensor_ranks
from adts_trainer.parallel.pipeline import Pipeline, tied_group
from adts_trainer.parallel.places import Layout, Place
from adts_trainer.parallel.regions import TensorRanks
from adts_trainer.parallel.tensor import cuts, summed_by_ranks
from adts_trainer.parallel.zero import ZeroModel
from adts_trainer.precision import Formats


def parallelise(build: Build, spec: Spec, processes: Processes, formats: Formats) -> ParallelModel:
    """The model cut into pipeline stages and their matrices over the tensor ranks; then recomputation, compilation,
    data parallelism and the initial weights, in this order.

    Recomputation and compilation change a layer in place and no parameter's name. Sharding comes before the weights
    exist, so that no rank ever holds all of them; replication needs them first.
    """
    built, parts = own_stages(build, spec, processes)
    _equalise(built, processes)
    ranks = tensor_ranks(spec, processes)
    loss = cut_parts(built, parts, ranks)
    engine = resolved_engine(spec)
    for part in parts:
        layers = own_layers(built, part)
        if spec.training.activation_checkpointing == "full":
            _recompute(layers)
        if spec.training.compile:
            _compile(layers or [part], processes.device)
        if engine == "native":
            shard(part, layers, processes, spec, formats)
        _materialise(built, part, processes.device, None if spec.checkpoint.initialize_from else spec.training.seed)
    layout = Layout(built, parts, _places(parts, ranks), loss, _tied(spec, built, processes))
    if engine == "deepspeed":
        return ZeroModel(spec, layout, processes, formats)
    reducer, steps_apart = _reducer(spec, engine, layout, processes), spec.communication.sync_every > 1
    return ParallelModel(
        spec.model,
        layout,
        engine,
        spec.zero.stage,
        processes,
        formats,
        replica=_replica(spec, parts[0], processes) if engine == "ddp" else None,
        pipeline=_pipeline(spec, layout, ranks, processes, formats),
        reducer=None if steps_apart else reducer,
        outer=_outer(spec, layout, reducer) if steps_apart and reducer is not None else None,
    )


def _replica(spec: Spec, module: nn.Module, processes: Processes) -> DistributedDataParallel | None:
    if spec.compression.method != "none" or spec.communication.sync_every > 1:
        return None
    return replicate(module, processes, spec.communication.bucket_megabytes)


def _pipeline(
    spec: Spec, layout: Layout, ranks: TensorRanks | None, processes: Processes, formats: Formats
) -> Pipeline | None:
    if spec.parallelism.pipeline == 1:
        return None
    sizes = shapes(spec, layout.built, ranks, processes, formats)
    return Pipeline(spec.parallelism, layout.parts, sizes, layout.loss, processes)


def _reducer(spec: Spec, engine: str, layout: Layout, processes: Processes) -> Reducer | None:
    """Ours, where torch's is not enough: between replicas of shards, and wherever gradients are compressed."""
    method, steps_apart = spec.compression.method, spec.communication.sync_every > 1
    if processes.layout.dp_replicate == 1 or (engine == "ddp" and method == "none" and not steps_apart):
        return None
    # tensor ranks hold copies of what is not cut: their copies stay equal only if they are summed exactly
    compression = without(spec.compression) if method == "auto" else spec.compression
    whole = frozenset(it.own_name for it in layout.places if it.cut is None and processes.layout.tp > 1)
    policy = Policy(
        functools.partial(methods.build, compression, seed=spec.training.seed),
        whole,
        spec.compression.min_elements,
        0 if method == "topk" else spec.compression.warmup_steps,  # which has a ramp of its own
        spec.compression.error_feedback,
    )
    parameters = [(place.own_name, place.parameter) for place in layout.places]
    wire = Wire(processes.own_group("dp_replicate"))
    tuner = Tuner(spec, parameters, policy, wire, processes) if method == "auto" else None
    return Reducer(
        parameters,
        wire,
        tuner.bucket_megabytes if tuner is not None else spec.communication.bucket_megabytes,
        policy=policy if method != "none" else None,
        overlap=spec.communication.overlap and not steps_apart,  # then it does not look at backward passes
        tune=tuner.before if tuner is not None else None,
    )


def _outer(spec: Spec, layout: Layout, reducer: Reducer) -> OuterStep:
    """What replicas that train apart come together by."""
    communication = spec.communication
    return OuterStep(
        [(place.own_name, place.parameter) for place in layout.places],
        reducer,
        every=communication.sync_every,
        learning_rate=communication.outer_learning_rate,
        momentum=communication.outer_momentum,
    )


def _tied(spec: Spec, built: BuiltModel, processes: Processes) -> dist.ProcessGroup | None:
    is_tied = spec.parallelism.pipeline > 1 and spec.model.tie_embeddings
    return tied_group(spec.parallelism, processes) if is_tied else None


def _places(parts: list[nn.Module], ranks: TensorRanks | None) -> list[Place]:
    """Every parameter of this rank, a tied one once."""
    places = []
    for part in parts:
        aliases, where = getattr(part, "aliases", {}), cuts(part)
        apart = summed_by_ranks(part, ranks) if ranks is not None else set()
        for name, parameter in part.named_parameters():
            whole = aliases.get(name, name)
            places.append(Place(whole, parameter, where.get(name), name in aliases, name in apart))
    return places


def _recompute(layers: list[nn.Module]) -> None:
    """Keep each layer's input only, and run its forward again in the backward pass (1604.06174)."""
    if not layers:
        raise ConfigError(
            "spec.training.activationCheckpointing: full recomputes repeated layers, but the model has no ModuleList "
            "of them; keep the layers in a torch.nn.ModuleList, or use none"
        )
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def _compile(modules: list[nn.Module], device: torch.device) -> None:
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise ConfigError(
            "spec.training.compile: true needs a C++ compiler on CPU, and neither g++ nor clang++ is on PATH; install "
            "one, or use false"
        )
    for module in modules:
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
def _materialise(built: BuiltModel, part: nn.Module, device: torch.device, seed: int | None) -> None:
    """Storage and initial weights of a built-in model, one parameter at a time. A tied parameter is one parameter."""
    if not built.on_meta:
        part.to(device)
        return
    part.to_empty(device=device)
    if seed is None:  # all come from a file, and a core takes a second to draw some millions
        return
    aliases, where = getattr(part, "aliases", {}), cuts(part)
    for name, parameter in part.named_parameters():
        place = where.get(name)
        shape = parameter.shape if place is None else place.whole_shape(parameter.shape)
        full = initial_parameter(part, aliases.get(name, name), shape, parameter.dtype, seed)
        _fill(parameter, full if place is None else place.of(full, parameter.shape))


def _fill(parameter: nn.Parameter, full: Tensor) -> None:
    if isinstance(parameter, DTensor):
        part = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.to_local().copy_(part.to_local())
    else:
        parameter.copy_(full)
