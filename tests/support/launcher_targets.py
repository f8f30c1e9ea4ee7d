"""Toy ranks for the launcher's tests: no torch, no process group; what they do is written in their JSON config."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from adts_api.contract import ExitCode
from adts_trainer.context import RankContext
from adts_trainer.heartbeat import HeartbeatWriter


def toy(context: RankContext, config_path: str) -> None:
    """Counts steps. `ends` is a list of [rank, round, step, how]: an exit code, -9 for SIGKILL, or an error's text.

    `steps` and `step_seconds` are the length; every step of every rank is a line of `<folder>/trace`. SIGTERM on any
    rank makes all of them leave with PREEMPTED, as ranks that agree on it do.
    """
    script = json.loads(Path(config_path).read_text())
    folder = Path(config_path).parent
    ends = {(rank, round_, step): how for rank, round_, step, how in script.get("ends", [])}
    every_round = {(rank, step): how for rank, round_, step, how in script.get("ends", []) if round_ == "every"}
    stop = folder / "stop"
    signal.signal(signal.SIGTERM, lambda number, frame: stop.touch())
    heartbeat = HeartbeatWriter(context.heartbeat_path, context.round)
    first = int((folder / "saved").read_text()) if (folder / "saved").exists() else 0
    for step in range(first, script["steps"] + 1):
        heartbeat.update(phase="training", step=step, steps=script["steps"], loss=1.0 / (step + 1), force=True)
        with (folder / "trace").open("a") as trace:
            trace.write(f"{context.rank} {context.round} {step} {os.getpid()} {time.time()}\n")
        how = ends.get((context.rank, context.round, step), every_round.get((context.rank, step)))
        if how is not None:
            leave(how, heartbeat)
        if stop.exists():
            leave(ExitCode.PREEMPTED, heartbeat)
        if script.get("save_every") and context.rank == 0 and step % script["save_every"] == 0:
            write_atomically(folder / "saved", str(step))
        time.sleep(script.get("step_seconds", 0.01))
    heartbeat.update(phase="done", exit_code=0, force=True)


def leave(how: int | str, heartbeat: HeartbeatWriter) -> None:
    """Ends this process in the way a script asks for."""
    if isinstance(how, str):
        heartbeat.update(phase="failed", error=how, exit_code=int(ExitCode.CRASH), force=True)
        print(f"Traceback: {how}", flush=True)
        os._exit(ExitCode.CRASH)
    if how < 0:
        os.kill(os.getpid(), -how)
        time.sleep(10)
    print(f"leaving with {how}", flush=True)
    heartbeat.update(exit_code=how, force=True)
    os._exit(how)


def talk(context: RankContext, config_path: str) -> None:
    """Prints lines, one without an end, one huge, one that is no UTF-8."""
    print(f"hello from {os.environ['RANK']} of {os.environ['WORLD_SIZE']}", flush=True)
    sys.stdout.buffer.write(b"bad \xff byte\n" + b"x" * 40_000 + b"\nno end")
    sys.stdout.flush()


def sleep(context: RankContext, config_path: str) -> None:
    """Does nothing for a minute and ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write_pid(context, config_path)
    a_function_that_hangs()


def parents(context: RankContext, config_path: str) -> None:
    """Writes down how many threads the fork server has."""
    text = Path(f"/proc/{os.getppid()}/status").read_text()
    threads = next(line.split()[1] for line in text.splitlines() if line.startswith("Threads:"))
    maps = Path(f"/proc/{os.getppid()}/maps").read_text()
    cuda = "/libcuda.so" in maps or "/dev/nvidia" in maps  # the driver; torch's own libraries are harmless
    torch_loaded = "torch" in sys.modules
    report = {"threads": int(threads), "cuda": cuda, "torch": torch_loaded, "omp": os.environ["OMP_NUM_THREADS"]}
    (Path(config_path).parent / f"parents-{context.rank}.json").write_text(json.dumps(report))


def write_pid(context: RankContext, config_path: str) -> None:
    """Leaves this process's PID in a file beside the config."""
    write_atomically(Path(config_path).parent / f"pid-{context.rank}", str(os.getpid()))


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is never seen half; its writer may be killed at any moment."""
    path.with_suffix(".tmp").write_text(text)
    path.with_suffix(".tmp").replace(path)


def a_function_that_hangs() -> None:
    """Its name must appear in the stacks."""
    time.sleep(60)
