"""Runs the ranks of one job on this machine, without a launcher: forked from one warm process, watched, reaped."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

from adts_trainer import heartbeat, rank
from adts_trainer.context import RankContext
from adts_trainer.heartbeat import Heartbeat
from adts_trainer.launch.ranks import FORKS, warm_up
from adts_trainer.metrics import FILE_NAME
from adts_trainer.selfcheck.cells import manifest

PRELOAD = ("adts_trainer.rank", "adts_trainer.selfcheck.compare")
"""What the warm process imports before the first fork: all that a rank runs."""
Prepare = Callable[[RankContext], None]


@dataclass(frozen=True)
class Place:
    """What the ranks of one round share."""

    run_dir: Path
    port: int
    attempt: int = 1
    round: int = 0
    uid: str = "job"

    def context(self, number: int, world: int, **changes: Any) -> RankContext:
        """The context of one rank, all of them on one node."""
        fields: dict[str, Any] = {
            "rank": number,
            "local_rank": number,
            "world_size": world,
            "local_world_size": world,
            "node_rank": 0,
            "nnodes": 1,
            "master_addr": "localhost",
            "master_port": self.port,
            "job_name": "job",
            "job_uid": self.uid,
            "attempt": self.attempt,
            "round": self.round,
            "device": "cpu",
            "threads": 1,
            "run_dir": self.run_dir,
            "start_timeout_seconds": 30.0,
        }
        return RankContext(**{**fields, **changes})


@dataclass(frozen=True)
class Finished:
    """What a job left behind."""

    exit_codes: list[int | None]
    """By rank; negative is a signal."""
    heartbeats: list[Heartbeat]
    folder: Path
    """Its checkpoint path."""
    output: str
    """What its ranks printed."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All of metrics.jsonl."""
        return [json.loads(line) for line in (self.folder / FILE_NAME).read_text().splitlines()]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl that tell of steps."""
        return [line for line in self.lines if "loss" in line]

    def series(self, name: str) -> list[Any]:
        """One metric over the logged steps."""
        return [line[name] for line in self.metrics]

    @property
    def problem(self) -> str:
        """Why it did not come to its end, in one line; empty if it did."""
        if all(code == 0 for code in self.exit_codes):
            return ""
        told = next((beat.error for beat in self.heartbeats if beat.error), "")
        ends = ", ".join(
            f"rank {number}: {code} at step {beat.step} ({beat.phase})"
            for number, (code, beat) in enumerate(zip(self.exit_codes, self.heartbeats, strict=True))
            if code != 0
        )
        return " ".join(f"{told or 'ranks ended'}; {ends}".split())


@dataclass(frozen=True)
class Running:
    """The processes of a job."""

    processes: list[BaseProcess]
    contexts: list[RankContext]
    folder: Path
    output: Path

    def beats(self) -> list[Heartbeat | None]:
        """The last heartbeat of each rank."""
        return [heartbeat.read(context.heartbeat_path) for context in self.contexts]

    def wait(self, timeout: float) -> Finished:
        """What is left after the end, or after `timeout` seconds, when what still runs is killed."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        self.kill()
        beats = [beat or Heartbeat() for beat in self.beats()]
        codes = [process.exitcode for process in self.processes]
        return Finished(codes, beats, self.folder, self.output.read_text())

    def kill(self) -> None:
        """Kill and reap what still runs."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
            if process.pid is not None:
                process.join()


@contextmanager
def started(
    place: Place, world: int, spec: dict[str, Any], *, prepare: Prepare | None = None, **changes: Any
) -> Iterator[Running]:
    """The ranks of a job with this spec, forked; none of them outlives the block.

    `prepare` runs in each rank before it starts and must be importable there. `changes` are of the contexts.
    """
    warm_up(PRELOAD)
    place.run_dir.mkdir(parents=True, exist_ok=True)
    config, output = place.run_dir / "training.yaml", place.run_dir / "output.txt"
    checkpoint = {"path": str(place.run_dir / "checkpoints"), **spec.get("checkpoint", {})}
    config.write_text(yaml.safe_dump(manifest({**spec, "checkpoint": checkpoint})))
    output.touch()
    contexts = [place.context(number, world, **changes) for number in range(world)]
    processes: list[BaseProcess] = [
        FORKS.Process(target=_run, args=(context, str(config), output, prepare)) for context in contexts
    ]
    running = Running(processes, contexts, Path(checkpoint["path"]), output)
    try:
        for process in processes:
            process.start()
        yield running
    finally:
        running.kill()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(context: RankContext, config: str, output: Path, prepare: Prepare | None) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if prepare is not None:
        prepare(context)
    rank.run(context, config)
