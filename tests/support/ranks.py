"""Runs a job as the launcher does, with forked ranks, and hands back what it left behind."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

from adts_trainer import heartbeat, rank
from adts_trainer.context import RankContext
from adts_trainer.heartbeat import Heartbeat

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["adts_trainer.rank", "torch.utils.tensorboard"])

BASE: dict[str, Any] = {
    "model": {"type": "gpt", "layers": 3, "hiddenSize": 32, "heads": 4, "vocabularySize": 61},
    "data": {"type": "synthetic", "sequenceLength": 16},
    "optimizer": {"learningRate": 3e-3, "clipNorm": 0.5, "schedule": {"warmupSteps": 2}},
    "training": {"steps": 20, "globalBatchSize": 16, "device": "cpu", "logEverySteps": 1, "tensorboard": False},
    "precision": {"dtype": "fp64"},
    "checkpoint": {"asynchronous": True},
}
"""A gpt of 42,000 parameters on synthetic tokens, in fp64, clipped at every step."""

Watch = Callable[[list[BaseProcess], Callable[[], list[Heartbeat | None]]], None]


@dataclass(frozen=True)
class Finished:
    """What a job left behind."""

    exit_codes: list[int | None]
    heartbeats: list[Heartbeat]
    folder: Path
    """Its checkpoint path."""
    output: str
    """What its ranks printed."""

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl that tell of steps."""
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [line for line in lines if "loss" in line]

    @property
    def evaluations(self) -> dict[int, float]:
        """Held-out loss by step."""
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line["evaluation_loss"] for line in lines if "evaluation_loss" in line}

    def series(self, name: str) -> list[Any]:
        """One metric over the logged steps."""
        return [line[name] for line in self.metrics]

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
    """BASE with blocks merged in: `spec(training={"steps": 5}, zero={"stage": 2})`."""
    merged = copy.deepcopy(BASE)
    for block, fields in changes.items():
        is_other_model = block == "model" and fields.get("type", "gpt") != "gpt"
        merged[block] = fields if is_other_model else {**merged.get(block, {}), **fields}
    return merged


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
        }
        return RankContext(**{**fields, **changes})


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_job(
    folder: Path,
    world: int,
    job_spec: dict[str, Any],
    *,
    attempt: int = 1,
    round_: int = 0,
    uid: str = "job",
    prepare: Callable[[RankContext], None] | None = None,
    watch: Watch | None = None,
    port: int | None = None,
    start_timeout: float = 30.0,
    timeout: float = 60.0,
) -> Finished:
    """Run a job of `world` ranks to its end with its checkpoints in `folder`.

    `prepare` runs in each rank before it starts and must be importable there (a function of `support`). `watch` runs
    here meanwhile, with the processes and a reader of their heartbeats.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run_dir = folder / f"run-{attempt}-{round_}-{time.monotonic_ns()}"
    run_dir.mkdir()
    config = run_dir / "training.yaml"
    full = copy.deepcopy(job_spec)
    full.setdefault("workers", {})["processesPerWorker"] = world
    full.setdefault("checkpoint", {}).setdefault("path", str(folder / "checkpoints"))
    manifest = {"apiVersion": "adts.dev/v1alpha1", "kind": "DistributedTraining", "metadata": {"name": "job"}}
    config.write_text(yaml.safe_dump({**manifest, "spec": full}))
    place = Place(run_dir, port or free_port(), attempt, round_, uid)
    contexts = [place.context(number, world, start_timeout_seconds=start_timeout) for number in range(world)]
    processes: list[BaseProcess] = [
        FORKSERVER.Process(target=_start, args=(context, str(config), run_dir / "output.txt", prepare))
        for context in contexts
    ]

    def beats() -> list[Heartbeat | None]:
        return [heartbeat.read(context.heartbeat_path) for context in contexts]

    try:
        for process in processes:
            process.start()
        if watch is not None:
            watch(processes, beats)
        deadline = time.monotonic() + timeout
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    final = [beat or Heartbeat() for beat in beats()]
    return Finished(
        [process.exitcode for process in processes],
        final,
        Path(full["checkpoint"]["path"]),
        (run_dir / "output.txt").read_text(),
    )


def wait_for_step(beats: Callable[[], list[Heartbeat | None]], step: int, timeout: float = 30.0) -> None:
    """Return once every rank has done `step` steps."""
    deadline = time.monotonic() + timeout
    while not all(beat is not None and beat.step >= step for beat in beats()):
        assert time.monotonic() < deadline, beats()
        time.sleep(0.01)


def _start(context: RankContext, config: str, output: Path, prepare: Callable[[RankContext], None] | None) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if prepare is not None:
        prepare(context)
    rank.run(context, config)
