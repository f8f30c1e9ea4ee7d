"""Saving and restoring a training: written beside the training, committed by the lead, agreed on by all ranks."""

from __future__ import annotations

import errno
import functools
import os
import platform
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from adts_api.errors import AdtsError
from adts_api.topology import layout
from adts_api.v1alpha1 import Spec
from adts_trainer import __version__
from adts_trainer import checkpoint_files as files
from adts_trainer.batch import DataFacts
from adts_trainer.checkpoint_manifest import FORMAT
from adts_trainer.checkpoint_region import SavePlanner
from adts_trainer.checkpoint_residuals import load_residuals, residual_regions
from adts_trainer.checkpoint_state import load_regions, training_regions
from adts_trainer.data.files import storage_error
from adts_trainer.distributed_setup import Processes
from adts_trainer.errors import CheckpointError
from adts_trainer.model_card import FILE_NAME, write_model_card
from adts_trainer.parallel.model import ParallelModel
from adts_trainer.precision import LossScaler
from adts_trainer.state import TrainState


@dataclass(frozen=True)
class Saved:
    """A checkpoint that stands."""

    step: int
    directory: Path
    time: str
    """When it was taken, RFC 3339."""


class Checkpointer:
    """Saves and restores one training. Every rank calls every method, in the same order."""

    def __init__(
        self,
        spec: Spec,
        claim: files.Claim,
        processes: Processes,
        model: ParallelModel,
        optimizer: torch.optim.Optimizer,
        scaler: LossScaler,
        facts: DataFacts,
    ) -> None:
        self._spec, self._claim, self._processes, self._facts = spec, claim, processes, facts
        self._model, self._optimizer, self._scaler = model, optimizer, scaler
        self._root = Path(spec.checkpoint.path).absolute()
        self._group = dist.new_group(backend="gloo")  # its collectives run beside the training's
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Saved] | None = None
        self.saved: Saved | None = None
        """The newest checkpoint that stands, as far as this rank knows."""
        self.last_step: int | None = None
        """Step of the newest checkpoint, one under way included; None if there is none. Equal on all ranks."""

    @property
    def is_lead(self) -> bool:
        """Whether this rank commits."""
        return self._processes.is_lead

    def find(self) -> Path | None:
        """Claim the folder; the checkpoint to continue from, if there is one.

        Raises FencedError, StorageError, or CheckpointError where `resume: never` finds one or the lock is malformed;
        each on all ranks.
        """
        return self._processes.together(self._find)[0]

    def load(self, directory: Path, state: TrainState) -> None:
        """Restore a checkpoint into the training.

        Raises CheckpointError on all ranks where a file is damaged, or the model or the optimizer is another one.
        """
        manifest = self._processes.together(functools.partial(self._verified, directory))[0]
        load_regions(directory, self._model, self._optimizer)
        load_residuals(directory, self._model)
        self._scaler.restore(manifest["scaler"])
        state.restore(manifest)
        self.last_step = state.step
        self.saved = Saved(state.step, directory, manifest["time"])

    def roll_back(self, state: TrainState) -> None:
        """Restore the newest checkpoint, once it is written. There must be one."""
        self.wait()
        assert self.saved is not None
        self.load(self.saved.directory, state)

    def save(self, state: TrainState) -> None:
        """Write a checkpoint of `state`; in the background if `asynchronous`. Waits for an earlier one first.

        Raises StorageError or FencedError on all ranks; the previous checkpoint stays.
        """
        if self.last_step == state.step:
            return
        self.wait()
        name = files.directory_name(state.step, self._claim.attempt)
        regions = training_regions(self._model, self._optimizer)
        regions |= residual_regions(self._model, self._spec.checkpoint.residual)
        options = {
            "storage_writer": dcp.FileSystemWriter(files.writing_path(self._root, name)),
            "process_group": self._group,
            "planner": SavePlanner(),
        }
        if self._spec.checkpoint.asynchronous:
            regions = {name: region.copy() for name, region in regions.items()}
        write = functools.partial(dcp.save, regions, **options)
        self._pending = self._worker.submit(self._finish, name, self._manifest(state), write)
        self.last_step = state.step
        if not self._spec.checkpoint.asynchronous:
            self.wait()

    def poll(self) -> bool:
        """Learn how a save in the background ended, if it did. True if it failed: then all ranks should `wait`, each
        of which raises, once they have told each other."""
        if self._pending is None or not self._pending.done():
            return False
        if self._pending.exception() is not None:
            return True
        self.wait()
        return False

    def wait(self) -> None:
        """Wait until nothing is being written. Raises what went wrong."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self.saved = pending.result()

    def _find(self) -> Path | None:
        """On the lead: take the folder and name the checkpoint to continue from."""
        if not self._processes.is_lead:
            return None
        try:
            found = files.latest(self._root)
            if found is not None and self._spec.checkpoint.resume == "never":
                raise CheckpointError(
                    f"spec.checkpoint.resume: never, but {found} exists; use auto to continue from it, or another "
                    "spec.checkpoint.path"
                )
            files.claim_folder(self._root, self._claim)
        except OSError as error:
            raise storage_error(self._root, error) from error
        return found

    def _verified(self, directory: Path) -> dict[str, Any]:
        """The manifest, after this rank's share of the files was compared with it."""
        manifest = files.read_manifest(directory)
        if manifest["optimizer"] != self._spec.optimizer.name:
            raise CheckpointError(
                f"spec.optimizer.name: {self._spec.optimizer.name}, but {directory} was written by "
                f"{manifest['optimizer']}; set it back, or choose another spec.checkpoint.path"
            )
        mine = manifest["files"][self._processes.rank :: self._processes.world_size]
        files.verify(directory, [files.FileFacts(**entry) for entry in mine])
        return manifest

    def _manifest(self, state: TrainState) -> dict[str, Any]:
        spec = self._spec
        return {
            "format": FORMAT,
            **state.to_json(),
            "scaler": self._scaler.state(),
            "attempt": self._claim.attempt,
            "optimizer": spec.optimizer.name,
            "precision": spec.precision.dtype,
            "layout": layout(spec),
            "globalBatchSize": spec.training.global_batch_size,
            "seed": spec.training.seed,
            "versions": {"adts": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "time": files.now(),
        }

    def _finish(self, name: str, manifest: dict[str, Any], write: Callable[[], object]) -> Saved:
        """In the worker: write, commit, and raise on every rank what went wrong on any."""
        try:
            write()
            problem = self._commit_together(name, manifest)
        except CheckpointException as error:  # raised by all ranks alike
            problem = _write_error(self._root / name, error)
        if problem is not None:
            if self._processes.is_lead:
                files.discard(self._root, name)
            raise problem
        return Saved(manifest["step"], self._root / name, manifest["time"])

    def _commit_together(self, name: str, manifest: dict[str, Any]) -> Exception | None:
        """Each rank sums up the files it wrote, the lead commits; what went wrong, on every rank."""
        try:
            own: list[files.FileFacts] | AdtsError = files.facts_of_rank(self._root, name, self._processes.rank)
        except OSError as error:
            own = storage_error(self._root / name, error)
        all_ranks: list[Any] = [None] * self._processes.world_size
        dist.all_gather_object(all_ranks, own, group=self._group)
        problem: Exception | None = next((entry for entry in all_ranks if isinstance(entry, AdtsError)), None)
        outcome = [problem]
        if problem is None and self._processes.is_lead:
            facts = [asdict(entry) for entries in all_ranks for entry in entries]
            outcome = [self._commit(name, {**manifest, "files": facts})]
        dist.broadcast_object_list(outcome, src=0, group=self._group)
        return outcome[0]

    def _commit(self, name: str, manifest: dict[str, Any]) -> Exception | None:
        try:
            card = self._root / FILE_NAME
            if self.saved is None or not card.exists():
                write_model_card(card, self._spec, self._facts)
            for _ in files.committing(self._root, name, manifest, self._claim):
                pass
            files.prune(self._root, self._spec.checkpoint.keep)
        except AdtsError as error:
            return error
        except OSError as error:
            return storage_error(self._root / name, error)
        return None


def _write_error(path: Path, error: CheckpointException) -> Exception:
    """What DCP met while it wrote: the first failure of the file system, or else what it says itself.

    torch's archive writer hides a write that failed half-way behind a complaint about its own position.
    """
    causes = [cause for cause, _ in error.failures.values()]
    full = next((cause for cause in causes if isinstance(cause, OSError)), None)
    if full is None and any("inline_container" in str(cause) for cause in causes):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return storage_error(path, full) if full is not None else RuntimeError(str(error))
