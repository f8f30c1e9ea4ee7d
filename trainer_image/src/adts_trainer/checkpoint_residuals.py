"""What compression left out, in a checkpoint: gradients that were computed and have not reached the weights yet.

residual.<name>            the sum over all replicas and owners (`residual: sum`)
residual@<r>.<name>        what replica r left out (`residual: perRank`)
owner@<r>.<name>           what replica r left out as the owner of parts of buckets (`perRank`)
compressor@<place>.<key>   what else a compressor builds on, by the place of the rank in the mesh (`perRank`)

Where replicas train apart, all of these begin with `outer-`: they are parts of outer gradients, in units of parameters.
So a training that is not apart takes over nothing of them, nor the reverse.
A second copy of a tied embedding has `residual-copy` and `owner-copy`: its gradient was another part of the same sum.
Names and shapes are those of parameters, so that they are cut and put together like parameters.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from adts_trainer.checkpoint_region import Region, read_into
from adts_trainer.parallel.model import ParallelModel
from adts_trainer.parallel.places import Place

_RESIDUAL, _OWNER, _COMPRESSOR = "residual", "owner", "compressor"
_COPIES = ("", "-copy")


def residual_regions(model: ParallelModel, keep: str) -> dict[str, Region]:
    """What this rank saves. All ranks call it: for `sum` replicas add up what they have."""
    return {f"{_kind(model)}{name}": it for name, it in _regions(model, keep).items()}


def _regions(model: ParallelModel, keep: str) -> dict[str, Region]:
    reducer = model.exchange
    if reducer is None or reducer.policy is None or keep == "none":
        return {}
    own, owned = reducer.residuals(), reducer.owner_residuals()
    if keep == "sum":
        for name, value in own.items():
            value += owned[name]
            reducer.wire.all_reduce(value)
        return _named(model, _RESIDUAL, "", own)
    replica, place = f"@{reducer.wire.rank}", _at(model)
    states = {f"{_COMPRESSOR}{place}.{name}": Region.of(value) for name, value in reducer.states().items()}
    return _named(model, _RESIDUAL, replica, own) | _named(model, _OWNER, replica, owned) | states


def load_residuals(directory: Path, model: ParallelModel) -> None:
    """Take over what a checkpoint has of it, whatever the layout was: nothing is lost. In the same layout, from a
    checkpoint with `residual: perRank`, training goes on bit by bit."""
    reducer = model.exchange
    if reducer is None or reducer.policy is None:
        return
    stored, wire = _stored(directory, _kind(model)), reducer.wire
    replicas = sorted({it.partition(".")[0].partition("@")[2] for it in stored if it.startswith(f"{_RESIDUAL}@")})
    own = {name: torch.zeros_like(value) for name, value in reducer.residuals().items()}
    owned = {name: torch.zeros_like(value) for name, value in own.items()}
    add = functools.partial(_add, directory, model, stored)
    for copy in _COPIES:
        if len(replicas) == wire.size:
            add(f"{_RESIDUAL}{copy}@{wire.rank}", own)
            for replica in replicas:  # together they are whole: each owner takes its part, whatever the buckets are
                add(f"{_OWNER}{copy}@{replica}", owned)
        else:
            add(f"{_RESIDUAL}{copy}", own, 1 / wire.size)
            for replica, kind in itertools.product(replicas, (_RESIDUAL, _OWNER)):
                add(f"{kind}{copy}@{replica}", own, 1 / wire.size)
    reducer.restore(own, owned, _states(directory, model, stored))


def _kind(model: ParallelModel) -> str:
    return "" if model.outer is None else "outer-"


def _trained(model: ParallelModel) -> Iterator[Place]:
    return (place for place in model.places if place.parameter.requires_grad)


def _at(model: ParallelModel) -> str:
    at = model.coordinates
    return f"@{at.pp}-{at.dp_shard}-{at.tp}"


def _named(model: ParallelModel, kind: str, replica: str, values: dict[str, Tensor]) -> dict[str, Region]:
    return {
        f"{kind}{_COPIES[it.is_copy]}{replica}.{it.name}": _region(it, values[it.own_name]) for it in _trained(model)
    }


def _region(place: Place, value: Tensor) -> Region:
    return Region.like(place.parameter, value, place.cut)


def _stored(directory: Path, kind: str) -> Mapping[str, TensorStorageMetadata]:
    """What is stored of a kind, by names without it."""
    entries = dcp.FileSystemReader(directory).read_metadata().state_dict_metadata
    kinds = tuple(f"{kind}{it}" for it in (_RESIDUAL, _OWNER, _COMPRESSOR))
    return {
        key.removeprefix(kind): it
        for key, it in entries.items()
        if key.startswith(kinds) and isinstance(it, TensorStorageMetadata)
    }


def _add(
    directory: Path,
    model: ParallelModel,
    stored: Mapping[str, TensorStorageMetadata],
    prefix: str,
    into: dict[str, Tensor],
    factor: float = 1.0,
) -> None:
    """Add `factor` times what is stored under a prefix, if anything is. The copy of an embedding takes over nothing:
    what it and its original had left out is of one gradient. Every rank calls it."""
    if not any(key.startswith(f"{prefix}.") for key in stored):
        return
    wanted = {it.name: (it, torch.zeros_like(into[it.name])) for it in _trained(model) if not it.is_copy}
    wanted = {name: it for name, it in wanted.items() if f"{prefix}.{name}" in stored}
    _load(directory, _kind(model), {f"{prefix}.{name}": _region(*it) for name, it in wanted.items()})
    for name, (_, value) in wanted.items():
        into[name] += factor * value


def _states(directory: Path, model: ParallelModel, stored: Mapping[str, TensorStorageMetadata]) -> dict[str, Tensor]:
    """Those that a rank at the same place of the mesh has saved; compressors take what fits."""
    prefix = f"{_COMPRESSOR}{_at(model)}."
    found = {k: torch.zeros(it.size, dtype=it.properties.dtype) for k, it in stored.items() if k.startswith(prefix)}
    _load(directory, _kind(model), {key: Region.of(value) for key, value in found.items()})
    return {key.removeprefix(prefix): value for key, value in found.items()}


def _load(directory: Path, kind: str, regions: dict[str, Region]) -> None:
    read_into(directory, {f"{kind}{name}": it for name, it in regions.items()})
