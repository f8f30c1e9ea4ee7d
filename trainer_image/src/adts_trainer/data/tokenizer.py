"""Text to token ids and back: plain bytes, or a tokenizer.json of the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adts_trainer.errors import DataError

BYTES = "bytes"
_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")


class Tokenizer(Protocol):
    """A reversible mapping of text to ids in [0, vocabulary_size)."""

    vocabulary_size: int
    separator: int | None
    """Id written after each document, if the vocabulary has one."""

    def encode(self, text: bytes) -> np.ndarray:
        """int64 [tokens]."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; what is no valid UTF-8 becomes U+FFFD."""


class ByteTokenizer:
    """256 ids, one a byte; documents end with a zero byte."""

    vocabulary_size = 256
    separator: int | None = 0

    def encode(self, text: bytes) -> np.ndarray:
        """int64 [len(text)]."""
        return np.frombuffer(text, dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of byte values."""
        return bytes(ids).decode("utf-8", errors="replace")


class FileTokenizer:
    """A tokenizer.json."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file is missing or is no tokenizer."""
        from tokenizers import Tokenizer as Backend

        if not path.is_file():
            raise DataError(f"spec.data.tokenizer: {path}: no such file; use `bytes` or the path of a tokenizer.json")
        try:
            self._backend: Any = Backend.from_file(str(path))
        except Exception as error:
            raise DataError(f"spec.data.tokenizer: {path}: is no tokenizer.json: {error}") from error
        self.vocabulary_size: int = max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        found = (self._backend.token_to_id(token) for token in _END_OF_TEXT)
        self.separator: int | None = next((i for i in found if i is not None), None)

    def encode(self, text: bytes) -> np.ndarray:
        """int64 [tokens], without special tokens."""
        encoding = self._backend.encode(text.decode("utf-8", errors="replace"), add_special_tokens=False)
        return np.asarray(encoding.ids, dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self._backend.decode(list(ids)))


def load_tokenizer(name: str) -> Tokenizer:
    """`bytes`, or the tokenizer of a file. Raises DataError."""
    return ByteTokenizer() if name == BYTES else FileTokenizer(Path(name))
