"""`model.json`: what a checkpoint folder says about its model, so that `adts sample` and `export` need no manifest."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adts_api.training import Data, Model
from adts_api.v1alpha1 import Spec
from adts_trainer.batch import DataFacts
from adts_trainer.data.files import written_atomically
from adts_trainer.data.tokenizer import BYTES
from adts_trainer.errors import CheckpointError

FILE_NAME = "model.json"
TOKENIZER_NAME = "tokenizer.json"


@dataclass(frozen=True)
class ModelCard:
    """The model of a checkpoint folder and the data it was trained on."""

    model: Model
    data: Data
    facts: DataFacts
    """`facts.tokenizer` is the copy beside the card where the folder has one."""
    precision: str
    """Compute dtype: fp32, bf16, fp16 or fp64."""


def write_model_card(path: Path, spec: Spec, facts: DataFacts) -> None:
    """Write `model.json` at `path`, and a copy of the tokenizer beside it. Raises StorageError."""
    raw = {
        "model": spec.model.model_dump(by_alias=True, mode="json"),
        "data": spec.data.model_dump(by_alias=True, mode="json"),
        "facts": asdict(facts),
        "precision": spec.precision.dtype,
    }
    if facts.tokenizer not in ("", BYTES) and Path(facts.tokenizer).is_file():
        with written_atomically(path.parent / TOKENIZER_NAME) as temporary:
            shutil.copyfile(facts.tokenizer, temporary)
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(raw, indent=1, sort_keys=True) + "\n")


def read_model_card(path: Path) -> ModelCard:
    """The card at `path`. Raises CheckpointError where it is missing or malformed."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        facts = DataFacts(**raw["facts"])
        model, data = Model.model_validate(raw["model"]), Data.model_validate(raw["data"])
        precision = str(raw["precision"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; it is written with a run's first checkpoint") from error
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: is no model card ({type(error).__name__}: {reason}); copy it again") from error
    copy = path.parent / TOKENIZER_NAME
    if facts.tokenizer not in ("", BYTES) and copy.is_file():
        facts = DataFacts(**{**asdict(facts), "tokenizer": str(copy)})
    return ModelCard(model, data, facts, precision)
