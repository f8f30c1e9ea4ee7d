"""Starts launchers of one job on this machine, with toy ranks, and looks at what they do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """The first true value of a condition; fails the test after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {condition}"
        time.sleep(0.02)
    return value


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent_of(pid: int) -> int:
    """PID of a process's parent: of a rank's, the fork server."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def get(port: int, path: str) -> str:
    """What a launcher answers on a path."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
        return response.read().decode()


@dataclass
class Job:
    """One job of one or more launchers, each a process of its own; `script` is what the toy ranks do."""

    folder: Path
    script: dict[str, Any]
    nnodes: int = 1
    processes: int = 2
    target: str = "support.launcher_targets:toy"
    limits: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    pods: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config.write_text(json.dumps(self.script))
        self.ports = [free_port() for _ in range(self.nnodes)]

    @property
    def config(self) -> Path:
        return self.folder / "script.json"

    def start(self, *nodes: int, **changes: Any) -> list[subprocess.Popen[bytes]]:
        """Starts the launchers of these nodes, or of all; output goes to `log-<node>` and `err-<node>`."""
        started = [self._start(node, changes) for node in nodes or range(self.nnodes)]
        self.pods += started
        return started

    def _start(self, node: int, changes: dict[str, Any]) -> subprocess.Popen[bytes]:
        options = {
            "config": str(self.config), "target": self.target, "limits": self.limits, "job_uid": "u",
            "node_rank": node, "nnodes": self.nnodes, "local_world_size": self.processes, "port": self.ports[node],
            "lead": f"127.0.0.1:{self.ports[0]}", "pod_name": f"toy-{node}-1", "node_name": f"machine-{node}",
        } | self.options | changes  # fmt: skip
        with (self.folder / f"log-{node}").open("ab") as out, (self.folder / f"err-{node}").open("ab") as err:
            return subprocess.Popen(
                [sys.executable, "-m", "support.launcher_process", json.dumps(options)],
                stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
            )  # fmt: skip

    def codes(self, seconds: float = 20.0) -> list[int]:
        """Exit codes of all launchers, once they ended."""
        return [pod.wait(seconds) for pod in self.pods]

    def log(self, node: int = 0) -> str:
        return (self.folder / f"log-{node}").read_text()

    def errors(self, node: int = 0) -> str:
        return (self.folder / f"err-{node}").read_text()

    def trace(self) -> list[tuple[int, int, int, int, float]]:
        """(rank, round, step, pid, time) of every step the toys did."""
        path = self.folder / "trace"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(r), int(o), int(s), int(p), float(t)) for r, o, s, p, t in (line.split() for line in lines)]

    def steps(self, round_: int) -> set[tuple[int, int]]:
        """(rank, step) of every step of a round."""
        return {(rank, step) for rank, each, step, _, _ in self.trace() if each == round_}

    def wait_for_step(self, rank: int, round_: int, step: int) -> None:
        wait_until(lambda: (rank, step) in self.steps(round_))

    def status(self, node: int = 0) -> dict[str, Any]:
        """The answer of a launcher's /status; empty while nobody answers."""
        try:
            return json.loads(get(self.ports[node], "/status"))
        except (urllib.error.URLError, ConnectionError):
            return {}

    def close(self) -> None:
        """Kills what is left; the kernel takes the ranks along."""
        for pod in self.pods:
            if pod.poll() is None:
                os.kill(pod.pid, signal.SIGKILL)
                pod.wait()


def jobs(folder: Path) -> Iterator[Callable[..., Job]]:
    """The body of a fixture: gives a maker of jobs in a test's folder, and ends what is left of them."""
    made: list[Job] = []

    def make(script: dict[str, Any], **options: Any) -> Job:
        made.append(Job(folder, script, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
