"""Jobs as files: one job per folder, its status beside its spec, so that the next `adts run` goes on from there."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO

from pydantic import ValidationError

from adts_api.contract import ConditionType
from adts_api.errors import ConfigError
from adts_api.v1alpha1 import Backoff, DistributedTraining, Status, WorkerCounts
from adts_operator.cluster.folder import JobFolder, storage_errors, write_atomically
from adts_operator.core.plan import Event


class LocalJob:
    """The one job of a folder, locked for as long as it is open. A `Jobs` for the reconciler."""

    def __init__(self, folder: JobFolder, on_event: Callable[[Event], None] = lambda event: None) -> None:
        self._folder, self._on_event = folder, on_event
        self._lock: IO[str] | None = None
        self._job: DistributedTraining | None = None
        self._suspended = False

    @property
    def job(self) -> DistributedTraining:
        """The job with its newest status, suspended if `suspend` was called."""
        assert self._job is not None, "open() comes first"
        if not self._suspended:
            return self._job
        policy = self._job.spec.run_policy.model_copy(update={"suspend": True})
        return self._job.model_copy(update={"spec": self._job.spec.model_copy(update={"run_policy": policy})})

    def __enter__(self) -> LocalJob:
        """Takes the folder. Raises ConfigError while another `adts run` has it."""
        self._folder.make()
        with storage_errors(self._folder.lock):
            self._lock = self._folder.lock.open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise ConfigError(
                f"{self._folder.root}: process {owner} already runs this job; wait for it, stop it with "
                f"`kill -INT {owner}`, or use another --workdir"
            ) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def open(self, wanted: DistributedTraining) -> DistributedTraining:
        """The job to run: `wanted` with what an earlier run of it left. A finished job of the same spec stays finished.

        Whoever types the command again wants another life: failures start from nothing, the attempt only grows.
        """
        stored = self._read()
        if stored is None:
            metadata = wanted.metadata.model_copy(update={"uid": str(uuid.uuid4()), "generation": 1})
            self._job = wanted.model_copy(update={"metadata": metadata, "status": Status()})
            self._write()
            return self._job
        same = stored.spec == wanted.spec
        update = {"uid": stored.metadata.uid, "generation": stored.metadata.generation + (not same)}
        over = same and stored.status.phase == "Succeeded"
        status = stored.status if over else _another_life(stored.status)
        metadata = wanted.metadata.model_copy(update=update)
        self._job = wanted.model_copy(update={"metadata": metadata, "status": status})
        self._write()
        return self._job

    def forget(self) -> None:
        """Removes the job, its checkpoints and logs. Raises ConfigError where the folder is not one of ours."""
        folder = self._folder
        if not folder.record.exists():
            left = [path for path in (folder.checkpoints, folder.logs) if any(path.iterdir())]
            if left:
                raise ConfigError(
                    f"{left[0]}: was not made by `adts run` ({folder.record} is missing); "
                    "remove it yourself or use another --workdir"
                )
            return
        with storage_errors(folder.root):
            for path in (folder.checkpoints, folder.logs, folder.run):
                shutil.rmtree(path)
            folder.record.unlink()
        folder.make()

    def suspend(self) -> None:
        """From now on the job reads as suspended: its pods save and leave. The stored spec stays as it is."""
        self._suspended = True

    async def read(self, key: str) -> DistributedTraining | None:
        return self.job

    async def write_status(self, job: DistributedTraining, status: Status) -> bool:
        assert self._job is not None
        self._job = self._job.model_copy(update={"status": status})
        self._write()
        return True

    async def record(self, job: DistributedTraining, events: Sequence[Event]) -> None:
        for event in events:
            self._on_event(event)

    async def delete(self, job: DistributedTraining) -> None:
        """A laptop keeps what a run left behind, until `--fresh`."""

    def _read(self) -> DistributedTraining | None:
        path = self._folder.record
        if not path.exists():
            return None
        try:
            return DistributedTraining.model_validate_json(path.read_text())
        except (ValidationError, ValueError) as error:
            raise ConfigError(
                f"{path}: is damaged or of another version ({type(error).__name__}); "
                "remove it to start anew from the checkpoints beside it"
            ) from error

    def _write(self) -> None:
        assert self._job is not None
        write_atomically(self._folder.record, self._job.model_dump_json(by_alias=True, indent=1))


def _another_life(status: Status) -> Status:
    """A status with no attempt under way and nothing held against the job; history and progress stay."""
    ends = (ConditionType.COMPLETE.value, ConditionType.FAILED.value)
    return status.model_copy(
        update={
            "phase": "Suspended" if status.attempt else "Pending",
            "not_before": "",
            "finished_at": "",
            "exit_code": None,
            "failures": 0,
            "backoff": Backoff(checkpoint_step=status.checkpoint.step),
            "workers": WorkerCounts(),
            "conditions": [condition for condition in status.conditions if condition.type not in ends],
        }
    )
