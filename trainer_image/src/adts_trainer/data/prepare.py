"""What `adts data prepare` does: choose files, hold some out, tokenise both parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from adts_trainer.data.files import find_files
from adts_trainer.data.memmap import Sidecar
from adts_trainer.data.text import read_pieces
from adts_trainer.data.tokenizer import BYTES, load_tokenizer
from adts_trainer.data.writer import write_tokens
from adts_trainer.errors import DataError


@dataclass(frozen=True)
class Selection:
    """Files of one split, in order."""

    files: list[Path]
    bytes: int


def select_files(sources: Sequence[str], include: Sequence[str], exclude: Sequence[str], limit: int) -> Selection:
    """Sorted, non-empty files of all sources whose name matches `include` and no part of whose path `exclude`.

    With a `limit`, files are taken in order until it is reached. Raises DataError where nothing is left.
    """
    found = {file for source in sources for file in find_files(source, (), "SOURCE")}
    chosen, total = [], 0
    for file in sorted(found):
        if limit and total >= limit:
            break
        size = file.stat().st_size
        named = any(fnmatch(file.name, pattern) for pattern in include)
        if size and named and not any(fnmatch(part, pattern) for part in file.parts for pattern in exclude):
            chosen.append(file)
            total += size
    if not chosen:
        raise DataError(
            f"SOURCE: none of {len(found)} files matches {' '.join(include)}; change --include or --exclude"
        )
    return Selection(chosen, total)


def hold_out(selection: Selection, fraction: float) -> tuple[Selection, Selection]:
    """(training, held-out): whole files, the last ones with at least `fraction` of the bytes. Raises DataError."""
    held, held_bytes = len(selection.files), 0
    while held and held_bytes < fraction * selection.bytes:
        held -= 1
        held_bytes += selection.files[held].stat().st_size
    if held == 0:
        raise DataError(
            f"--holdout: {fraction} of {len(selection.files)} files leaves none to train on; "
            "files are held out whole: give more or smaller files"
        )
    training = Selection(selection.files[:held], selection.bytes - held_bytes)
    return training, Selection(selection.files[held:], held_bytes)


def tokenize(
    selection: Selection, binary: Path, tokenizer: str, text_field: str, on_bytes: Callable[[int], None]
) -> Sidecar:
    """Write one split; `.jsonl` is read by line, everything else as text. Raises DataError, StorageError."""
    pieces = (
        piece
        for file in selection.files
        for piece in read_pieces([file], text_field if file.suffix == ".jsonl" else None, on_bytes)
    )
    name = tokenizer if tokenizer == BYTES else str(Path(tokenizer).resolve())
    return write_tokens(binary, pieces, load_tokenizer(tokenizer), name)
