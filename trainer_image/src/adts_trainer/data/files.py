"""Finding the files of a data set, and writing files that are whole or absent."""

from __future__ import annotations

import errno
import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adts_trainer.errors import DataError, StorageError


def find_files(path: str, suffixes: tuple[str, ...], field: str = "spec.data.path") -> list[Path]:
    """Sorted files of a file name, a folder (recursive, names ending in `suffixes`; () takes all) or a glob pattern.

    Raises DataError where nothing matches or a file cannot be read.
    """
    if not path:
        raise DataError(f"{field}: is empty; name a file, a folder or a glob pattern")
    root = Path(path)
    if root.is_dir():
        found = [p for p in root.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(root))]
        found = [p for p in found if not suffixes or p.name.endswith(suffixes)]
        nothing = f"the folder holds no {' or '.join(suffixes) or 'regular'} file"
    elif root.exists():
        found, nothing = [root], ""
    else:
        found = [Path(p) for p in glob.glob(path, recursive=True) if Path(p).is_file()]  # noqa: PTH207 - absolute patterns too
        nothing = "no such file or folder, and no file matches it as a pattern"
    if not found:
        raise DataError(f"{field}: {path}: {nothing}; relative paths start at {Path.cwd()}")
    for file in found:
        if not os.access(file, os.R_OK):
            raise DataError(f"{field}: {file}: no permission to read it; check its owner and mode")
    return sorted(found)


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def file_size(path: Path) -> int:
    """Bytes of a file. Raises DataError where it vanished or is empty."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; check that the file exists and can be read") from error
    if size == 0:
        raise DataError(f"{path}: the file is empty; write the data again")
    return size


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; renamed on success, removed on failure.

    Raises StorageError where the disk is full, read-only or may not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """The message of a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{path}: the disk is full; free space there or choose another folder")
    return StorageError(f"{path}: cannot write: {error.strerror or error}; choose a folder that can be written")
