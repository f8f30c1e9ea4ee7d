"""What replicas that train apart add to a checkpoint. It is taken after an outer step: their parameters are equal, and
the start of the next round; what their optimizers have seen is not.

optimizer@<r>.<name>.<key>   what the optimizer of replica r keeps for a parameter
outer.<name>                 momentum of the outer step, equal on all replicas

As many replicas as were saved go on bit by bit. Any other number, and a training that is not apart, takes the mean over
those that were saved: an estimate of the same averages of gradients from more samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from adts_trainer.checkpoint_region import Pieces, Region, read_into
from adts_trainer.parallel.model import ParallelModel

_OPTIMIZER = re.compile(r"^optimizer(@(\d+))?\.")
_OUTER = "outer."

Regions = Mapping[str, Region | Pieces]


def of_own_replica(regions: Regions, model: ParallelModel) -> dict[str, Region | Pieces]:
    """The same with the state of the optimizer under this replica's names, where replicas train apart."""
    if model.outer is None:
        return dict(regions)
    return {_named(name, model.coordinates.dp_replicate): it for name, it in regions.items()}


def as_of_one(stored: Mapping[str, TensorStorageMetadata]) -> dict[str, TensorStorageMetadata]:
    """What is stored, by the names of a training in which all replicas have the same state."""
    return {_OPTIMIZER.sub("optimizer.", name): it for name, it in stored.items()}


def sources(stored: Iterable[str], model: ParallelModel) -> list[int]:
    """The saved replicas whose state this one goes on from; none where all had the same."""
    replicas = sorted({int(it[2]) for it in map(_OPTIMIZER.match, stored) if it is not None and it[2]})
    at = model.coordinates.dp_replicate
    is_same = model.outer is not None and len(replicas) == model.outer.reducer.wire.size
    return [at] if is_same else replicas


@torch.no_grad()
def load(directory: Path, wanted: Regions, replicas: Sequence[int]) -> None:
    """Fill regions from a checkpoint, the state of the optimizer as the mean of some replicas'. Every rank calls it
    with as many of them."""
    apart = {name: it for name, it in wanted.items() if replicas and _OPTIMIZER.match(name)}
    read_into(directory, {name: it for name, it in wanted.items() if name not in apart})
    tensors = [it.tensor for region in apart.values() for it in _pieces(region)]
    before: list[Tensor] = []
    for replica in replicas:
        read_into(directory, {_named(name, replica): it for name, it in apart.items()})
        if before:
            torch._foreach_add_(tensors, before)
        before = [it.clone() for it in tensors] if replica != replicas[-1] else []
    if tensors and len(replicas) > 1:
        torch._foreach_div_(tensors, float(len(replicas)))


def outer_regions(model: ParallelModel) -> dict[str, Region]:
    """The momentum of the outer step."""
    return _momentum(model, are_copies=False)


def load_outer(directory: Path, model: ParallelModel) -> None:
    """Begin a round at the parameters that were loaded, with the momentum that was saved, if any was. Every rank calls
    it."""
    if model.outer is None:
        return
    model.outer.restart()
    stored = dcp.FileSystemReader(directory).read_metadata().state_dict_metadata
    for are_copies in (False, True):  # a rank may have both the embedding and its copy, under one name
        regions = _momentum(model, are_copies=are_copies)
        read_into(directory, {name: it for name, it in regions.items() if name in stored})


def _momentum(model: ParallelModel, *, are_copies: bool) -> dict[str, Region]:
    values: Mapping[str, Tensor] = model.outer.momentum if model.outer is not None else {}
    places = [it for it in model.places if it.own_name in values and it.is_copy == are_copies]
    return {f"{_OUTER}{it.name}": Region.like(it.parameter, values[it.own_name], it.cut) for it in places}


def _named(name: str, replica: int) -> str:
    return _OPTIMIZER.sub(f"optimizer@{replica}.", name)


def _pieces(region: Region | Pieces) -> list[Region]:
    return region.pieces if isinstance(region, Pieces) else [region]
