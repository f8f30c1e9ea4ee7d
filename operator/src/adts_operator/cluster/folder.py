"""The folder of one job below the workdir: where everything of a local run lies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adts_api.contract import MOUNT_CHECKPOINTS, MOUNT_CONFIG, MOUNT_DATA, MOUNT_SHM, MOUNT_TOKEN
from adts_api.errors import ConfigError
from adts_operator.core.environment import HOME, TEMPORARY
from adts_operator.errors import StorageError

DATA = "data"
"""Folder of the workdir that stands in for /data, shared by its jobs."""


@dataclass(frozen=True)
class JobFolder:
    """Paths of one job."""

    workdir: Path
    name: str

    @property
    def root(self) -> Path:
        return self.workdir / self.name

    @property
    def record(self) -> Path:
        """The job with its status; also what marks the folder as ours."""
        return self.root / "job.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """What lives as long as a run: configurations, the token, the table of processes."""
        return self.root / "run"

    @property
    def token(self) -> Path:
        return self.run / "token"

    @property
    def processes(self) -> Path:
        return self.run / "processes.json"

    def log(self, pod: str) -> Path:
        return self.logs / f"{pod}.log"

    def termination(self, pod: str) -> Path:
        """Where a pod's launcher leaves its last status."""
        return self.run / f"{pod}.termination"

    def config(self, attempt: int) -> Path:
        """Stands in for the ConfigMap of one attempt."""
        return self.run / f"attempt-{attempt}"

    def mounts(self, attempt: int) -> dict[str, Path]:
        """Folders of this machine for the mounts that every pod has."""
        return {
            MOUNT_CONFIG: self.config(attempt),
            MOUNT_TOKEN: self.token.parent,
            MOUNT_DATA: self.workdir / DATA,
            MOUNT_CHECKPOINTS: self.checkpoints,
            MOUNT_SHM: Path(MOUNT_SHM),
            HOME: Path.home(),
            TEMPORARY: Path(TEMPORARY),
        }

    def make(self) -> None:
        """Makes the folders. Raises ConfigError for a name that is taken, StorageError where nothing can be written."""
        if self.name == DATA:
            raise ConfigError(f"metadata.name: {DATA} is the folder for /data in {self.workdir}; use another name")
        with storage_errors(self.root):
            for folder in (self.checkpoints, self.logs, self.run, self.workdir / DATA):
                folder.mkdir(parents=True, exist_ok=True)
            self.run.chmod(0o700)  # the token


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replaces a file at once: a crash leaves the old one. Raises StorageError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with storage_errors(path):
        with open(temporary, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(text)
        temporary.replace(path)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into one message."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise StorageError(
            f"{where}: {error.strerror or error}; free space or permissions, or choose another --workdir"
        ) from error
