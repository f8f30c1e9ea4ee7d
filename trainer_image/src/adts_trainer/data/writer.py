"""Writing token files: documents in, `<name>.bin` and `<name>.json` out, both whole or absent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from adts_trainer.data.files import written_atomically
from adts_trainer.data.memmap import TOKEN_TYPES, Sidecar, smallest_token_type, write_sidecar
from adts_trainer.data.tokenizer import Tokenizer
from adts_trainer.errors import DataError


def write_tokens(
    binary: Path, pieces: Iterable[tuple[bytes, bool]], tokenizer: Tokenizer, tokenizer_name: str
) -> Sidecar:
    """Tokenise (text, ends a document) pieces into `binary` and its description; the separator follows a document.

    Raises DataError where the pieces hold no text at all, StorageError where the disk is full.
    """
    dtype_name = smallest_token_type(tokenizer.vocabulary_size)
    dtype, tokens = np.dtype(TOKEN_TYPES[dtype_name]), 0
    separator = np.array([] if tokenizer.separator is None else [tokenizer.separator], dtype=dtype)
    with written_atomically(binary) as temporary:
        with temporary.open("wb") as out:
            for text, ends_document in pieces:
                ids = tokenizer.encode(text).astype(dtype)
                ids = np.concatenate([ids, separator]) if ends_document else ids
                out.write(ids.tobytes())
                tokens += len(ids)
        if tokens == 0:
            raise DataError(f"{binary}: the sources hold no text; nothing was written")
        binary.with_suffix(".json").unlink(missing_ok=True)
    sidecar = Sidecar(dtype_name, tokenizer.vocabulary_size, tokens, tokenizer_name)
    write_sidecar(binary, sidecar)
    return sidecar
