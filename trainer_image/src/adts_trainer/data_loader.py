"""Opens the data set that `spec.data` describes. Text is tokenised once per node; after that everything is a memmap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adts_api.training import Data, Model
from adts_trainer.data.dataset import Dataset
from adts_trainer.data.memmap import open_token_files
from adts_trainer.data.synthetic import SyntheticTokens, SyntheticVectors
from adts_trainer.data.tensors import TensorDataset
from adts_trainer.data.text import open_text
from adts_trainer.errors import DataError

_SYNTHETIC_VOCABULARY, _SYNTHETIC_FEATURES, _SYNTHETIC_CLASSES = 256, 32, 10


def open_dataset(
    data: Data,
    *,
    path: str | None = None,
    seed: int,
    cache_dir: Path,
    is_local_lead: bool,
    barrier: Callable[[], None],
    model: Model | None = None,
) -> Dataset:
    """The samples of `spec.data`, or of `path` (the held-out data) read in the same way.

    `is_local_lead` is true on one process of each node: it fills the cache of tokenised text in `cache_dir` while the
    others wait at `barrier`, which text and jsonl call exactly once and the other types never. `model` tells synthetic
    data what to make (an mlp wants vectors) and bounds token ids whose vocabulary no .json states.
    Raises DataError for files that are missing, empty or malformed, StorageError where the cache cannot be written.
    """
    where = data.path if path is None else path
    match data.type:
        case "tokens":
            return open_token_files(data, where, model.vocabulary_size if model else 0)
        case "text" | "jsonl":
            return open_text(data, where, cache_dir, is_local_lead, barrier)
        case "tensors":
            return TensorDataset(where)
        case "synthetic":
            return _synthetic(data, where, seed, model or Model())
        case _:
            raise DataError("spec.data.type: is empty; use tokens, text, jsonl, tensors or synthetic")


def _synthetic(data: Data, name: str, seed: int, model: Model) -> Dataset:
    if model.type == "mlp":
        features, classes = model.input_size or _SYNTHETIC_FEATURES, model.output_size or _SYNTHETIC_CLASSES
        return SyntheticVectors(seed, name, features, classes)
    return SyntheticTokens(seed, name, data.sequence_length, model.vocabulary_size or _SYNTHETIC_VOCABULARY)
