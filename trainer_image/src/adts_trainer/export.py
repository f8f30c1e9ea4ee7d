"""The weights of a checkpoint for other programs: one safetensors file of our names, or a folder of Hugging Face."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from adts_api.rules_data import without_huggingface_layout
from adts_trainer.data.files import written_atomically
from adts_trainer.errors import CheckpointError
from adts_trainer.huggingface_layout import config_of, stored
from adts_trainer.weights import FoundCheckpoint, load_weights

FILE = "model.safetensors"
NAMES = {"safetensors": FILE, "huggingface": "huggingface"}
"""Forms, and what a training calls its file or folder."""


class Exported(NamedTuple):
    """What was written."""

    parameters: int
    size: int
    """Bytes of the weights."""


def export_weights(found: FoundCheckpoint, form: str, path: Path) -> Exported:
    """Write the weights of a checkpoint to a file (form safetensors) or a folder (huggingface), a tied matrix once.

    Raises CheckpointError where it cannot be read or its model has no such form, StorageError.
    """
    model = found.card.model
    reason = without_huggingface_layout(model) if form == "huggingface" else ""
    if reason:
        raise CheckpointError(f"{found.directory}: Hugging Face {reason}; export it as safetensors")
    weights = load_weights(found.directory)
    if model.type == "gpt" and model.tie_embeddings:
        weights.pop("head.weight", None)
    if form == "huggingface":
        return _write_folder(path, weights, found)
    return _write(path, weights, found, {"model": json.dumps(model.model_dump(by_alias=True, mode="json"))})


def _write_folder(folder: Path, weights: dict[str, Tensor], found: FoundCheckpoint) -> Exported:
    """config.json and model.safetensors, for `AutoModelForCausalLM.from_pretrained`; the tokenizer, if there is one."""
    model, card = found.card.model, found.card
    if model.type == "huggingface":
        config = _own_config(Path(model.path))
    else:
        embedding = weights["token_embedding.weight"]
        dtype = str(embedding.dtype).removeprefix("torch.")
        config = config_of(model, len(embedding), card.data.sequence_length, dtype)
        weights = _their_weights(weights, model.shape)
    exported = _write(folder / FILE, weights, found, {})
    with written_atomically(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")
    if Path(card.facts.tokenizer).is_file():
        with written_atomically(folder / "tokenizer.json") as temporary:
            shutil.copyfile(card.facts.tokenizer, temporary)
    return exported


def _their_weights(weights: dict[str, Tensor], shape: str) -> dict[str, Tensor]:
    """Weights under their names; parts of one matrix are put together. Empties `weights`, so that two copies of one
    tensor are in memory and never of all."""
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    theirs = {}
    for name in list(weights):
        place, tensor = stored(shape, name), weights.pop(name)
        found = parts.setdefault(place.name, [])
        found.append((place.part, tensor))
        if len(found) == place.parts:
            whole = torch.cat([part for _, part in sorted(parts.pop(place.name), key=lambda it: it[0])])
            theirs[place.name] = (whole.t() if place.transposed else whole).contiguous()
    return theirs


def _own_config(folder: Path) -> dict[str, object]:
    """The config.json of the model that was trained."""
    path = folder / "config.json"
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); put it back, or export safetensors") from error


def _write(path: Path, weights: dict[str, Tensor], found: FoundCheckpoint, metadata: dict[str, str]) -> Exported:
    from safetensors.torch import save_file

    with written_atomically(path) as temporary:
        save_file(weights, temporary, {"format": "pt", "step": str(found.step), **metadata})
    return Exported(sum(tensor.numel() for tensor in weights.values()), path.stat().st_size)
