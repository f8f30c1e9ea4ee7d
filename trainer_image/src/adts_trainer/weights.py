"""The weights of a checkpoint in one process: finding it, reading it, putting it into a model.

A checkpoint folder holds `latest` (JSON: directory, step), `model.json` and one directory per checkpoint in the format
of torch.distributed.checkpoint, whose key `model` maps parameter names to tensors.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from adts_trainer.errors import CheckpointError
from adts_trainer.model import build_model
from adts_trainer.model_card import FILE_NAME, ModelCard, read_model_card

_MODEL = "model."
_DTYPES = {"fp64": torch.float64}


@dataclass(frozen=True)
class FoundCheckpoint:
    """One checkpoint on disk."""

    directory: Path
    step: int
    card: ModelCard


def find_checkpoint(folder: Path) -> FoundCheckpoint:
    """The newest checkpoint of a run folder or of its `checkpoints`, or the given checkpoint itself.

    Raises CheckpointError where there is none, or `latest` and the folder disagree.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; name the folder of a run, or a checkpoint in it")
    if (folder / ".metadata").is_file():
        number = folder.name.partition("-")[0]
        card = read_model_card(folder.parent / FILE_NAME)
        return FoundCheckpoint(folder, int(number) if number.isdigit() else 0, card)
    root = next((p for p in (folder, folder / "checkpoints") if (p / "latest").is_file()), None)
    if root is None:
        raise CheckpointError(f"{folder}: holds no checkpoint (no file `latest` there or in checkpoints/)")
    latest = root / "latest"
    try:
        raw = json.loads(latest.read_text())
        directory, step = root / str(raw["directory"]), int(raw["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{latest}: is no pointer to a checkpoint ({type(error).__name__}: {error}); name a folder beside it"
        ) from error
    if not directory.is_dir():
        raise CheckpointError(f"{latest}: points to {directory.name}, which is gone; name another folder beside it")
    return FoundCheckpoint(directory, step, read_model_card(root / FILE_NAME))


def load_weights(directory: Path) -> dict[str, Tensor]:
    """Parameter name -> full CPU tensor, in one process without a process group. Raises CheckpointError."""
    try:
        reader = dcp.FileSystemReader(directory)
        stored = reader.read_metadata().state_dict_metadata
        weights = {
            name.removeprefix(_MODEL): torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in stored.items()
            if name.startswith(_MODEL) and isinstance(entry, TensorStorageMetadata)
        }
        if not weights:
            raise CheckpointError(f"{directory}: holds no model weights; it is no checkpoint of adts")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is what is meant
            dcp.load({"model": weights}, storage_reader=reader, no_dist=True)
    except CheckpointError:
        raise
    except (Exception, CheckpointException) as error:  # a damaged file raises nearly anything, this a BaseException
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        reason = str(cause).strip().partition("\n")[0]
        raise CheckpointError(
            f"{directory}: cannot be read ({type(cause).__name__}: {reason}); it is damaged: name an older checkpoint"
        ) from error
    return weights


def load_model(found: FoundCheckpoint) -> nn.Module:
    """The model of a checkpoint on the CPU, in evaluation mode. Raises CheckpointError where weights do not fit."""
    card, weights = found.card, load_weights(found.directory)
    spec = card.model.model_copy(update={"pretrained": False})
    dtype = _DTYPES.get(card.precision, torch.float32)
    built = build_model(spec, card.data, card.facts, seed=0, dtype=dtype)
    module = built.module.to_empty(device="cpu") if built.on_meta else built.module
    try:
        result = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"{found.directory}: does not fit its model.json: {' '.join(str(error).split())}"
        ) from error
    own = dict(module.named_parameters())  # a tied parameter has one name here
    missing = [name for name in result.missing_keys if name in own]
    if missing or result.unexpected_keys:
        wrong = [
            *(f"{name} is missing" for name in missing),
            *(f"{name} is unknown" for name in result.unexpected_keys),
        ]
        raise CheckpointError(f"{found.directory}: does not fit its model.json: {', '.join(wrong[:3])}")
    return module.eval()
