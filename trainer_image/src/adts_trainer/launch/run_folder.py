"""The launcher's folder on tmpfs, for heartbeats and stacks; gone afterwards, at the latest when another starts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "adts-"


@contextlib.contextmanager
def run_folder(base: Path | None = None) -> Iterator[Path]:
    """A new folder in `base` (default: /dev/shm where it is writable, else the place for temporary files)."""
    base = base or Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
    for stale in base.glob(f"{PREFIX}*"):
        _remove_if_abandoned(stale)
    folder, lock = _locked_folder(base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(base: Path) -> tuple[Path, int]:
    """A folder and the lock that says it is in use; it ends with this process, however that ends."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)  # another launcher took it for abandoned before the lock


def _remove_if_abandoned(folder: Path) -> None:
    """PIDs would not tell: containers may share the folder's file system and not their processes."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return  # another user's, or just gone
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
