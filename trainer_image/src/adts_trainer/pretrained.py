"""Weights to start from, `spec.checkpoint.initializeFrom`: each rank reads its own rectangles of the files, as it does
of a checkpoint, whatever the layout and the engine. No rank reads what it does not keep.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from pydantic import ValidationError

from adts_api.training import Model
from adts_api.v1alpha1 import Spec
from adts_trainer import huggingface_layout as huggingface
from adts_trainer.checkpoint_region import Pieces, Region
from adts_trainer.checkpoint_state import buffers
from adts_trainer.distributed_setup import Processes
from adts_trainer.huggingface_layout import Stored
from adts_trainer.models.gpt import intermediate_size
from adts_trainer.parallel.model import ParallelModel
from adts_trainer.safetensors_files import open_tensors, problem, read_json

_FIX = "set spec.model as it is there, or name other weights"
_POSITIONS = "position_embedding.weight"


def initialise(spec: Spec, model: ParallelModel, processes: Processes) -> list[str]:
    """Fill a model with the weights that the spec names; every rank calls it. What is to be said of it, line by line.

    Raises CheckpointError on all ranks where a file cannot be read, or is of another model.
    """
    read = processes.together(functools.partial(_fill, spec, model))
    model.refresh()
    most = max(count for count, _ in read)
    first = f"start from {spec.checkpoint.initialize_from}; a rank read at most {most:,} bytes of it"
    return [first, *read[0][1]]


@torch.no_grad()
def _fill(spec: Spec, model: ParallelModel) -> tuple[int, list[str]]:
    """Bytes that this rank read, and remarks."""
    weights = Weights(Path(spec.checkpoint.initialize_from), spec.model, model.built.vocabulary_size)
    weights.require_names(model.built.names)
    for place in model.places:
        home = model.home(place)
        weights.fill(place.name, home.region(home.tensor.detach()))
    for name, region in buffers(model):
        weights.fill(name, region)
    return weights.bytes_read, weights.remarks


class Weights:
    """Files with the weights of a model, under our names or Hugging Face's. Raises CheckpointError."""

    def __init__(self, path: Path, model: Model, vocabulary: int) -> None:
        """Of `model`, with so many token ids where it has such."""
        self.bytes_read = 0
        self.remarks: list[str] = []
        """What is computed here in another way than where the weights come from."""
        self._path, self._tensors = path, open_tensors(path)
        self._is_foreign = (path / "config.json").is_file()
        self._is_gpt, self._shape = model.type == "gpt", model.shape
        model = model.model_copy(update={"vocabulary_size": vocabulary})
        if self._is_foreign:
            self._adopt(model)
        else:
            self._require_same(self._written_by_us() or model, model)

    def require_names(self, names: frozenset[str]) -> None:
        """Refuse files that lack a parameter, or have one that the model does not know."""
        wanted = {self._where(name).name for name in names}
        for found, words in (
            (wanted - self._tensors.keys(), "lacks {} of this model"),
            (self._tensors.keys() - wanted, "has {} that this model does not know"),
        ):
            if found:
                count = f"{len(found)} tensor{'s' if len(found) > 1 else ''}"
                shown = ", ".join(sorted(found)[:3]) + (", ..." if len(found) > 3 else "")
                is_part = self._path.is_file() and (self._path.parent / "config.json").is_file()
                fix = "name its folder, which has a config.json" if is_part else _FIX
                raise problem(self._path, f"{words.format(count)} ({shown}); {fix}")

    def fill(self, name: str, region: Region | Pieces) -> None:
        """Copy what a rank has of a parameter of ours, in the rank's number format."""
        place = self._where(name)
        tensor = self._tensors[place.name]
        there, here = place.shape(tensor.shape), tuple(region.whole)
        is_longer = self._is_gpt and name == _POSITIONS and there[0] > here[0] and there[1:] == here[1:]
        if is_longer:
            self.remarks.append(f"{self._path}: the first {here[0]} of its {there[0]} positions are used")
        elif there != here:
            raise problem(self._path, f"{name} has shape {list(there)} there, but {list(here)} in this model; {_FIX}")
        for piece in region.pieces if isinstance(region, Pieces) else [region]:
            if piece.is_empty:
                continue
            part = tensor.read(place.slices(tuple(piece.offsets), tuple(piece.tensor.shape), here[0] if here else 0))
            if part.dtype != piece.tensor.dtype and not (part.is_floating_point() and part.element_size() > 1):
                kind = str(part.dtype).removeprefix("torch.")
                raise problem(self._path, f"{place.name} is {kind}; name weights in fp64, fp32, bf16 or fp16")
            piece.tensor.copy_(part.t() if place.transposed else part)
            self.bytes_read += part.numel() * part.element_size()

    def _where(self, name: str) -> Stored:
        return huggingface.stored(self._shape, name) if self._is_foreign else Stored(name)

    def _adopt(self, model: Model) -> None:
        """Take a folder of Hugging Face, if its config.json describes `model`."""
        path = self._path / "config.json"
        config = read_json(path)
        try:
            asked = list(huggingface.obstacles(config))
            there = None if asked else huggingface.model_of(config)
        except (KeyError, TypeError, ValidationError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise problem(path, f"is incomplete ({type(error).__name__}: {reason}); copy it again") from error
        if there is None:
            fix = "name weights of a model of that kind, or use spec.model.type huggingface with spec.model.path"
            raise problem(path, f"has {', '.join(asked)}, which gpt has not; {fix}")
        self._require_same(there, model)
        self.remarks += [f"{path}: {it}" for it in huggingface.differences(config)]
        named = ((huggingface.full_name(model.shape, name), tensor) for name, tensor in self._tensors.items())
        self._tensors = {name: tensor for name, tensor in named if name}
        if model.tie_embeddings:
            self._tensors.pop("lm_head.weight", None)  # the embedding once more

    def _written_by_us(self) -> Model | None:
        """The model that an export of ours wrote into its file."""
        text = next((tensor.metadata.get("model") for tensor in self._tensors.values()), None)
        try:
            return Model.model_validate_json(text) if text else None
        except ValidationError:
            return None  # somebody else's word

    def _require_same(self, there: Model, here: Model) -> None:
        """Refuse what differs in what shapes do not tell of, such as heads, by the names of the fields."""
        ours = _facts(here)
        differing = [
            f"{name} {value} there, {ours.get(name)} here"
            for name, value in _facts(there).items()
            if value != ours.get(name)
        ]
        if differing:
            raise problem(self._path, f"is of another model ({'; '.join(differing)}); {_FIX}")


def _facts(model: Model) -> dict[str, object]:
    """What makes two models of one type two models, by the names of the fields, defaults written out."""
    facts: dict[str, object] = {"type": model.type}
    if model.type == "gpt":
        facts |= {
            "shape": model.shape,
            "layers": model.layers,
            "hiddenSize": model.hidden_size,
            "heads": model.heads,
            "keyValueHeads": model.key_value_heads or model.heads,
            "intermediateSize": intermediate_size(model),
            "tieEmbeddings": model.tie_embeddings,
        }
        facts |= {"vocabularySize": model.vocabulary_size} if model.vocabulary_size else {}
        facts |= {"ropeTheta": model.rope_theta} if model.shape == "llama" else {}
    return facts
