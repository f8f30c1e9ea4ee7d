"""Text and JSONL files, tokenised once per node into a token file under the cache folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from adts_api.errors import AdtsError
from adts_api.training import Data
from adts_trainer.batch import DataFacts
from adts_trainer.data.files import find_files
from adts_trainer.data.memmap import TokenDataset, open_tokens
from adts_trainer.data.tokenizer import BYTES, load_tokenizer
from adts_trainer.data.writer import write_tokens
from adts_trainer.errors import DataError, StorageError

_BLOCK_BYTES = 16 << 20
_CACHE_FORMAT = 1


def open_text(data: Data, path: str, cache_dir: Path, is_local_lead: bool, barrier: Callable[[], None]) -> TokenDataset:
    """The data set of text or JSONL files. The local lead fills the cache before it enters `barrier`.

    What the lead finds wrong is raised on every process: it leaves the message beside the cache file.
    Raises DataError, and StorageError where the cache cannot be written.
    """
    files = find_files(path, (".jsonl",) if data.type == "jsonl" else ())
    binary = cache_dir / f"{data.type}-{_fingerprint(data, files)}.bin"
    failure = _fill_cache(data, files, binary) if is_local_lead else None
    barrier()
    if failure is not None:
        raise failure
    _raise_complaint(binary)
    array, sidecar = open_tokens(binary)
    vocabulary = sidecar.vocabulary_size if sidecar else 0
    facts = DataFacts("tokens", vocabulary_size=vocabulary, tokenizer=data.tokenizer)
    return TokenDataset([array], facts, data.sequence_length, path, id_limit=vocabulary)


def _fill_cache(data: Data, files: list[Path], binary: Path) -> AdtsError | None:
    """Tokenise into `binary` unless it is there. A failure is returned, and left on disk for the other processes."""
    complaint = binary.with_suffix(".error")
    complaint.unlink(missing_ok=True)
    if _is_cached(binary):
        return None
    try:
        field = data.text_field if data.type == "jsonl" else None
        write_tokens(binary, read_pieces(files, field), load_tokenizer(data.tokenizer), data.tokenizer)
    except (DataError, StorageError) as error:
        binary.unlink(missing_ok=True)
        with suppress(OSError):  # where not even this can be written, the missing file says enough
            complaint.write_text(str(error) if isinstance(error, DataError) else "")
        return error
    return None


def _raise_complaint(binary: Path) -> None:
    """What the local lead left instead of a cache file."""
    complaint = binary.with_suffix(".error")
    with suppress(FileNotFoundError):
        if message := complaint.read_text():
            raise DataError(message)
    if not binary.is_file():
        raise StorageError(f"{binary}: the first process of this node could not write it; see its message")


def read_pieces(
    files: list[Path], text_field: str | None, on_bytes: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[bytes, bool]]:
    """(text, ends a document) of each file in order: a file is a document, or with `text_field` each JSONL line.

    `on_bytes` is told of the bytes read. Raises DataError with file and line.
    """
    for file in files:
        try:
            with file.open("rb") as stream:
                yield from _lines(file, stream, text_field, on_bytes) if text_field else _blocks(stream, on_bytes)
        except OSError as error:
            raise DataError(f"{file}: {error.strerror or error}; check that the file can be read") from error


def _blocks(stream: IO[bytes], on_bytes: Callable[[int], None]) -> Iterator[tuple[bytes, bool]]:
    """Blocks that end at a line, so that no word is cut where a file is larger than a block."""
    rest = b""
    while block := stream.read(_BLOCK_BYTES):
        on_bytes(len(block))
        text, newline, rest = (rest + block).rpartition(b"\n")
        if newline:
            yield text + newline, False
    yield rest, True


def _lines(
    file: Path, stream: IO[bytes], text_field: str, on_bytes: Callable[[int], None]
) -> Iterator[tuple[bytes, bool]]:
    for number, line in enumerate(stream, start=1):
        on_bytes(len(line))
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}:{number}: is no JSON: {error}; each line must be one JSON object") from error
        if not isinstance(record, dict) or not isinstance(record.get(text_field), str):
            has = ", ".join(sorted(record)) if isinstance(record, dict) else type(record).__name__
            raise DataError(
                f"{file}:{number}: has no text in field {text_field!r} (it has {has or 'nothing'}); "
                "set spec.data.textField"
            )
        yield record[text_field].encode("utf-8", errors="surrogatepass"), True


def _is_cached(binary: Path) -> bool:
    """Whether the cache holds a whole file: one without its description, or cut short, is written again."""
    try:
        return open_tokens(binary)[1] is not None
    except DataError:
        return False


def _fingerprint(data: Data, files: list[Path]) -> str:
    """Changes with the files (name, size, time), the tokenizer and the way they are read."""
    tokenizer = data.tokenizer
    if tokenizer != BYTES and Path(tokenizer).is_file():
        tokenizer = hashlib.sha256(Path(tokenizer).read_bytes()).hexdigest()
    described = [_CACHE_FORMAT, data.type, data.text_field, tokenizer]
    for file in files:
        status = file.stat()
        described += [str(file.resolve()), status.st_size, status.st_mtime_ns]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:20]
