"""The tensors of a training by name, as torch.distributed.checkpoint sees them: the same names under every layout.

model.<name>                  parameters, a tied one once, and persistent buffers
optimizer.<name>.<key>        what the optimizer keeps for a parameter: exp_avg, exp_avg_sq, step, momentum_buffer
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from adts_trainer.errors import CheckpointError

_MODEL, _OPTIMIZER = "model.", "optimizer."


def training_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of a training, sharing storage with it; sharded ones as DTensors."""
    tensors = _model_tensors(module)
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{name}.{key}"] = value
    return tensors


def load_tensors(directory: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fill model and optimizer from a checkpoint of any layout; every rank calls it.

    Raises CheckpointError where names or shapes differ: the checkpoint is of another model.
    """
    reader = dcp.FileSystemReader(directory)
    stored = {
        name: entry
        for name, entry in reader.read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    model = _model_tensors(module)
    _require_same(directory, model, stored)
    optimizer.state.clear()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            _prepare(optimizer, name, parameter, stored)
    dcp.load(training_tensors(module, optimizer), storage_reader=reader)


def _model_tensors(module: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {f"{_MODEL}{name}": p.detach() for name, p in module.named_parameters()}
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, value in module.state_dict().items():
        if name not in parameters and isinstance(value, Tensor):
            tensors[f"{_MODEL}{name}"] = value
    return tensors


def _prepare(
    optimizer: torch.optim.Optimizer, name: str, parameter: nn.Parameter, stored: dict[str, TensorStorageMetadata]
) -> None:
    """Empty optimizer state of one parameter, in the shape the checkpoint has it."""
    prefix = f"{_OPTIMIZER}{name}."
    for full_name, entry in stored.items():
        if not full_name.startswith(prefix):
            continue
        key = full_name.removeprefix(prefix)
        if entry.size == parameter.shape:
            optimizer.state[parameter][key] = torch.zeros_like(parameter.detach())
        else:  # the count of steps; fused optimizers want it on the parameter's device
            optimizer.state[parameter][key] = torch.zeros(
                entry.size, dtype=entry.properties.dtype, device=parameter.device
            )


def _require_same(directory: Path, own: dict[str, Tensor], stored: dict[str, TensorStorageMetadata]) -> None:
    fix = "it is of another model; set spec.model as it was, or choose another spec.checkpoint.path"
    for full_name, tensor in own.items():
        name = full_name.removeprefix(_MODEL)
        if full_name not in stored:
            raise CheckpointError(f"{directory}: has no {name} of shape {list(tensor.shape)}; {fix}")
        if stored[full_name].size != tensor.shape:
            raise CheckpointError(
                f"{directory}: {name} has shape {list(stored[full_name].size)} there, but {list(tensor.shape)} in this "
                f"model; {fix}"
            )
    for full_name, entry in stored.items():
        if full_name.startswith(_MODEL) and full_name not in own:
            name = full_name.removeprefix(_MODEL)
            raise CheckpointError(f"{directory}: has {name} of shape {list(entry.size)}, which this model lacks; {fix}")
