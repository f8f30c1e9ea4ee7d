"""Token files: one flat array of token ids per `<name>.bin`, described by `<name>.json` beside it.

Sample i of a data set of sequence length T is tokens[i*T : i*T + T + 1]: inputs are its first T tokens, targets its
last T. Samples share no target; the last partial window is dropped. Several files read as one long array.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adts_api.training import Data
from adts_trainer.batch import Batch, DataFacts
from adts_trainer.data.files import file_size, find_files, written_atomically
from adts_trainer.errors import DataError

TOKEN_TYPES = {"uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32}
_ASSUMED_TYPE = "uint16"
"""Of a file whose type neither spec.data.tokenType nor a .json states."""


@dataclass(frozen=True)
class Sidecar:
    """What `<name>.json` says about `<name>.bin`."""

    dtype: str
    vocabulary_size: int
    tokens: int
    tokenizer: str


def smallest_token_type(vocabulary_size: int) -> str:
    """The narrowest integer type that holds every id of a vocabulary."""
    return "uint8" if vocabulary_size <= 1 << 8 else "uint16" if vocabulary_size <= 1 << 16 else "uint32"


def write_sidecar(binary: Path, sidecar: Sidecar) -> None:
    """Write `<name>.json` beside a `.bin` file. Raises StorageError."""
    raw = asdict(sidecar)
    raw["vocabularySize"] = raw.pop("vocabulary_size")
    with written_atomically(binary.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(raw, indent=1, sort_keys=True) + "\n")


def read_sidecar(binary: Path) -> Sidecar | None:
    """The description beside a `.bin` file, or None. Raises DataError where it is malformed."""
    path = binary.with_suffix(".json")
    if not path.exists():
        return None
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        sidecar = Sidecar(
            str(raw["dtype"]), int(raw["vocabularySize"]), int(raw["tokens"]), str(raw.get("tokenizer", ""))
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a description of a token file ({type(error).__name__}: {error}); "
            "write both again with `adts data prepare`, or remove the .json and set spec.data.tokenType"
        ) from error
    if sidecar.dtype not in TOKEN_TYPES:
        raise DataError(f"{path}: dtype {sidecar.dtype!r} is none of {', '.join(TOKEN_TYPES)}; write both files again")
    return sidecar


def open_tokens(binary: Path, token_type: str = "auto") -> tuple[np.ndarray, Sidecar | None]:
    """The memory-mapped ids of one file (1-D) and its description.

    Raises DataError where the file is empty, has a partial token, or disagrees with its description.
    """
    size, sidecar = file_size(binary), read_sidecar(binary)
    dtype_name = token_type if token_type != "auto" else sidecar.dtype if sidecar else _ASSUMED_TYPE
    dtype = np.dtype(TOKEN_TYPES[dtype_name])
    if sidecar and dtype_name != sidecar.dtype:
        raise DataError(
            f"{binary}: spec.data.tokenType is {dtype_name} but {binary.with_suffix('.json').name} says "
            f"{sidecar.dtype}; set spec.data.tokenType to auto"
        )
    if size % dtype.itemsize:
        raise DataError(
            f"{binary}: {size} bytes are no whole number of {dtype_name} tokens; "
            "the file is cut short or spec.data.tokenType is wrong"
        )
    if sidecar and size != sidecar.tokens * dtype.itemsize:
        raise DataError(
            f"{binary}: holds {size // dtype.itemsize} tokens but {binary.with_suffix('.json').name} says "
            f"{sidecar.tokens}; one of the two is from another run: write both again with `adts data prepare`"
        )
    try:
        return np.memmap(binary, dtype=dtype, mode="r"), sidecar
    except OSError as error:
        raise DataError(f"{binary}: {error.strerror or error}; check that the file can be read") from error


class TokenDataset:
    """Windows over one or more arrays of token ids, read as one."""

    def __init__(
        self, arrays: Sequence[np.ndarray], facts: DataFacts, sequence_length: int, source: str, id_limit: int = 0
    ) -> None:
        """`source` names the data in errors; ids at or above `id_limit` are refused (0 refuses none)."""
        self._arrays, self._T, self._source = list(arrays), sequence_length, source
        self._ends = np.cumsum([len(array) for array in arrays])
        self._limit = id_limit
        self.facts, self.tokens_per_sample = facts, sequence_length
        self.tokens = int(self._ends[-1])
        if len(self) < 1:
            raise DataError(
                f"{source}: {self.tokens} tokens are too few for one sample of {sequence_length} + 1 tokens; "
                f"add data or set spec.data.sequenceLength to at most {max(self.tokens - 1, 1)}"
            )

    def __len__(self) -> int:
        return (self.tokens - 1) // self._T

    def batch(self, ids: np.ndarray, keys: np.ndarray) -> Batch:
        """int64 inputs and targets [B, T]. Raises DataError for an id outside the vocabulary."""
        T = self._T
        windows = np.empty((len(ids), T + 1), dtype=np.int64)
        for row, sample in zip(windows, ids.tolist(), strict=True):
            self._read(sample * T, row)
        if self._limit and windows.size and int(windows.max()) >= self._limit:
            raise DataError(
                f"{self._source}: token id {int(windows.max())} is outside the vocabulary of {self._limit} ids; "
                "set spec.model.vocabularySize to that of the tokenizer, or write the tokens again"
            )
        rows = torch.from_numpy(windows)
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), torch.from_numpy(keys))

    def _read(self, start: int, out: np.ndarray) -> None:
        """Fill `out` with the tokens from `start` on, across file boundaries."""
        file = int(np.searchsorted(self._ends, start, side="right"))
        offset, filled = start - (int(self._ends[file - 1]) if file else 0), 0
        while filled < len(out):
            piece = self._arrays[file][offset : offset + len(out) - filled]
            out[filled : filled + len(piece)] = piece
            filled, file, offset = filled + len(piece), file + 1, 0


def open_token_files(data: Data, path: str, model_vocabulary: int) -> TokenDataset:
    """The data set of `.bin` files, whose ids `model_vocabulary` (0 if unknown) and each .json bound. `path` is that of
    `data` or of held-out data that goes with it. Raises DataError."""
    found = find_files(path, (".bin",))
    opened = [open_tokens(file, data.token_type) for file in found]
    bare = next((file for file, (_, sidecar) in zip(found, opened, strict=True) if sidecar is None), None)
    if bare is not None and data.token_type == "auto":
        _refuse_guess(bare, find_files(data.path, (".bin",)))
    sidecars = [sidecar for _, sidecar in opened if sidecar]
    tokenizers = sorted({sidecar.tokenizer for sidecar in sidecars})
    if len(tokenizers) > 1:
        raise DataError(f"{path}: files of different tokenizers: {', '.join(tokenizers)}; prepare all with one")
    all_described = len(sidecars) == len(opened)
    vocabulary = max(sidecar.vocabulary_size for sidecar in sidecars) if all_described else 0
    facts = DataFacts("tokens", vocabulary_size=vocabulary, tokenizer=tokenizers[0] if tokenizers else "")
    arrays = [array for array, _ in opened]
    limit = min(filter(None, (vocabulary, model_vocabulary)), default=0)
    return TokenDataset(arrays, facts, data.sequence_length, path, id_limit=limit)


def _refuse_guess(bare: Path, training: Sequence[Path]) -> None:
    """Raise DataError where a file without .json would be read as uint16 beside training files of another type."""
    for file in training:
        sidecar = read_sidecar(file)
        if sidecar and sidecar.dtype != _ASSUMED_TYPE:
            raise DataError(
                f"{bare}: has no {bare.with_suffix('.json').name} and would be read as {_ASSUMED_TYPE}, but {file} is "
                f"of {sidecar.dtype}; write both with `adts data prepare`, or set spec.data.tokenType"
            )
