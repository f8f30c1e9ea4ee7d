"""The tensors of a training by name, as torch.distributed.checkpoint sees them: the same names under every layout.

model.<name>                  parameters, a tied one once, and persistent buffers
optimizer.<name>.<key>        what the optimizer keeps for a parameter: exp_avg, exp_avg_sq, step, momentum_buffer;
                              where replicas train apart, see `checkpoint_replicas`
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from adts_trainer import checkpoint_replicas as replicas
from adts_trainer.checkpoint_region import Home, Pieces, Region
from adts_trainer.errors import CheckpointError
from adts_trainer.parallel.model import ParallelModel
from adts_trainer.parallel.places import Place

_MODEL, _OPTIMIZER = "model.", "optimizer."


def training_regions(model: ParallelModel, optimizer: torch.optim.Optimizer) -> dict[str, Region | Pieces]:
    """All that this rank has of a training, sharing storage with it. A second copy is left to the first."""
    regions: dict[str, Region | Pieces] = {**_buffers(model), **replicas.outer_regions(model)}
    for place in model.places:
        if not place.is_copy:
            regions |= _regions(place, model.home(place), optimizer)
    return replicas.of_own_replica(regions, model)


def load_regions(directory: Path, model: ParallelModel, optimizer: torch.optim.Optimizer) -> None:
    """Fill model and optimizer from a checkpoint of any layout; every rank calls it.

    Raises CheckpointError where names or shapes differ: the checkpoint is of another model.
    """
    stored = {
        name: entry
        for name, entry in dcp.FileSystemReader(directory).read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    sources, stored = replicas.sources(stored, model), replicas.as_of_one(stored)
    optimizer.state.clear()
    regions = _buffers(model)
    copies = {}
    for place in model.places:
        home = model.home(place)
        own = _regions(place, home, optimizer)
        _require_same(directory, own, stored)
        if place.parameter.requires_grad:
            _prepare(optimizer, place, home, stored)
            own = _regions(place, home, optimizer)
        (copies if place.is_copy else regions).update(own)
    _require_known(directory, model, stored)
    for wanted in (regions, copies):  # a rank may have both the embedding and its copy, under one name
        replicas.load(directory, wanted, sources)
    replicas.load_outer(directory, model)
    model.refresh()


def _regions(place: Place, home: Home, optimizer: torch.optim.Optimizer) -> dict[str, Region | Pieces]:
    """A parameter and what the optimizer keeps for it."""
    regions = {f"{_MODEL}{place.name}": home.region(home.tensor.detach())}
    for key, value in optimizer.state.get(home.tensor, {}).items():
        if isinstance(value, Tensor):
            is_alike = value.shape == home.tensor.shape
            regions[f"{_OPTIMIZER}{place.name}.{key}"] = home.region(value) if is_alike else Region.of(value)
    return regions


def buffers(model: ParallelModel) -> Iterator[tuple[str, Region]]:
    """By name, the persistent buffers of this rank."""
    for part in model.parts:
        parameters = {name for name, _ in part.named_parameters(remove_duplicate=False)}
        for name, value in part.state_dict().items():
            if name not in parameters and isinstance(value, Tensor):
                yield name, Region.of(value)


def _buffers(model: ParallelModel) -> dict[str, Region | Pieces]:
    return {f"{_MODEL}{name}": region for name, region in buffers(model)}


def _prepare(
    optimizer: torch.optim.Optimizer, place: Place, home: Home, stored: dict[str, TensorStorageMetadata]
) -> None:
    """Empty optimizer state of one parameter, in the shape the checkpoint has it."""
    prefix, state = f"{_OPTIMIZER}{place.name}.", optimizer.state[home.tensor]
    whole = stored[f"{_MODEL}{place.name}"].size
    for full_name, entry in stored.items():
        key = full_name.removeprefix(prefix)
        if not full_name.startswith(prefix) or key in state:  # several parameters may have one home
            continue
        if entry.size == whole:
            state[key] = torch.zeros_like(home.tensor.detach())
        else:  # the count of steps; fused optimizers want it on the parameter's device
            state[key] = torch.zeros(entry.size, dtype=entry.properties.dtype, device=home.tensor.device)


_FIX = "it is of another model; set spec.model as it was, or choose another spec.checkpoint.path"


def _require_same(directory: Path, own: dict[str, Region | Pieces], stored: dict[str, TensorStorageMetadata]) -> None:
    for full_name, region in own.items():
        name = full_name.removeprefix(_MODEL)
        if full_name not in stored:
            raise CheckpointError(f"{directory}: has no {name} of shape {list(region.whole)}; {_FIX}")
        if stored[full_name].size != region.whole:
            raise CheckpointError(
                f"{directory}: {name} has shape {list(stored[full_name].size)} there, but {list(region.whole)} in this "
                f"model; {_FIX}"
            )


def _require_known(directory: Path, model: ParallelModel, stored: dict[str, TensorStorageMetadata]) -> None:
    """All that is stored is somewhere in the whole model."""
    known = {f"{_MODEL}{name}" for name in model.built.names}
    for full_name, entry in stored.items():
        if full_name.startswith(_MODEL) and full_name not in known:
            name = full_name.removeprefix(_MODEL)
            raise CheckpointError(
                f"{directory}: has {name} of shape {list(entry.size)}, which this model lacks; {_FIX}"
            )
