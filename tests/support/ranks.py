"""Runs a job as the launcher does, with forked ranks, and hands back what it left behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from adts_trainer.heartbeat import Heartbeat
from adts_trainer.launch.ranks import FORKS as FORKSERVER
from adts_trainer.selfcheck import runner
from adts_trainer.selfcheck.cells import BASE, merged
from adts_trainer.selfcheck.runner import Place, Prepare, free_port, started

__all__ = ["FORKSERVER", "Finished", "Place", "custom", "free_port", "run_job", "spec", "wait_for_step"]

Watch = Callable[[list[BaseProcess], Callable[[], list[Heartbeat | None]]], None]


class Finished(runner.Finished):
    """What a job left behind, for assertions."""

    @property
    def evaluations(self) -> dict[int, float]:
        """Held-out loss by step."""
        return {line["step"]: line["evaluation_loss"] for line in self.lines if "evaluation_loss" in line}

    def expect(self, code: int = 0) -> Finished:
        """This, if every rank ended with `code`."""
        assert self.exit_codes == [code] * len(self.exit_codes), (self.exit_codes, self.errors, self.output[-3000:])
        return self

    @property
    def errors(self) -> list[str]:
        return [beat.error for beat in self.heartbeats]


def custom(factory: str, **arguments: Any) -> dict[str, Any]:
    """`spec.model` for a model of `support.user_models`."""
    return {"type": "custom", "factory": f"support.user_models:{factory}", "arguments": arguments, "vocabularySize": 61}


def spec(**changes: Any) -> dict[str, Any]:
    """The selfcheck's spec with blocks merged in: `spec(training={"steps": 5}, zero={"stage": 2})`."""
    is_other_model = changes.get("model", {}).get("type", "gpt") != "gpt"
    base = {block: fields for block, fields in BASE.items() if block != "model" or not is_other_model}
    return merged(base, changes)


def run_job(
    folder: Path,
    world: int,
    job_spec: dict[str, Any],
    *,
    attempt: int = 1,
    round_: int = 0,
    uid: str = "job",
    prepare: Prepare | None = None,
    watch: Watch | None = None,
    port: int | None = None,
    start_timeout: float = 30.0,
    timeout: float = 60.0,
) -> Finished:
    """Run a job of `world` ranks to its end with its checkpoints in `folder`.

    `prepare` runs in each rank before it starts and must be importable there (a function of `support`). `watch` runs
    here meanwhile, with the processes and a reader of their heartbeats.
    """
    run_dir = folder / f"run-{attempt}-{round_}-{time.monotonic_ns()}"
    defaults = {"workers": {"processesPerWorker": world}, "checkpoint": {"path": str(folder / "checkpoints")}}
    full = merged(defaults, job_spec)
    place = Place(run_dir, port or free_port(), attempt, round_, uid)
    with started(place, world, full, prepare=prepare, start_timeout_seconds=start_timeout) as running:
        if watch is not None:
            watch(running.processes, running.beats)
        return Finished(**vars(running.wait(timeout)))


def wait_for_step(beats: Callable[[], list[Heartbeat | None]], step: int, timeout: float = 30.0) -> None:
    """Return once every rank has done `step` steps."""
    deadline = time.monotonic() + timeout
    while not all(beat is not None and beat.step >= step for beat in beats()):
        assert time.monotonic() < deadline, beats()
        time.sleep(0.01)
