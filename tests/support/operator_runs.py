"""Runs of `adts run` as users start them: in their own process, in a folder of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from adts_operator.cluster.processes import ProcessId, kill_group

FAKE = [sys.executable, str(Path(__file__).with_name("operator_adts.py"))]
REAL = [sys.executable, "-c", "from adts_operator.cli import main; main()"]

MANIFEST = """\
apiVersion: adts.dev/v1alpha1
kind: DistributedTraining
metadata: {name: demo}
spec:
  workers: {replicas: 2, processesPerWorker: 1}
  model: {type: mlp, inputSize: 4, outputSize: 2, hiddenSize: 8, layers: 1}
  data: {type: synthetic}
  training: {steps: 50, globalBatchSize: 8, device: cpu}
"""


class Workplace:
    """A folder with a manifest in it, where `adts` is typed."""

    def __init__(self, folder: Path, command: Sequence[str] = FAKE, manifest: str = MANIFEST) -> None:
        self.folder, self._command = folder, command
        (folder / "training.yaml").write_text(manifest)

    def adts(self, *arguments: str, faults: dict[str, list[int]] | None = None) -> subprocess.CompletedProcess[str]:
        """The finished command with its output."""
        with self.started(*arguments, faults=faults) as process:
            out, err = process.communicate(timeout=100)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @contextlib.contextmanager
    def started(self, *arguments: str, faults: dict[str, list[int]] | None = None) -> Iterator[subprocess.Popen[str]]:
        """The command while it runs; killed at the end, and its pods with it."""
        process = subprocess.Popen(
            [*self._command, *arguments],
            cwd=self.folder,
            env={**os.environ, "FAKE_FAULTS": json.dumps(faults or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                process.communicate()
            for pod in self._pods():
                kill_group(pod)

    def job(self, name: str = "demo") -> dict[str, Any]:
        """The job as it is stored."""
        return json.loads((self.folder / "runs" / name / "job.json").read_text())

    def status(self, name: str = "demo") -> dict[str, Any]:
        return self.job(name)["status"]

    def pids(self, name: str = "demo") -> list[int]:
        """PIDs of the pods that run now, as recorded."""
        return [pod.pid for pod in self._pods(name)]

    def _pods(self, name: str = "demo") -> list[ProcessId]:
        path = self.folder / "runs" / name / "run" / "processes.json"
        return [ProcessId(**it) for it in json.loads(path.read_text())] if path.exists() else []

    def log(self, pod: str, name: str = "demo") -> str:
        return (self.folder / "runs" / name / "logs" / f"{pod}.log").read_text()

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 60.0) -> dict[str, Any]:
        """The first stored status that meets a condition."""
        deadline = time.monotonic() + seconds
        status: dict[str, Any] = {}
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                status = self.status()
                if condition(status):
                    return status
            time.sleep(0.05)
        raise AssertionError(f"not in {seconds} s; the status was {status}")


def trains(step: int) -> Callable[[dict[str, Any]], bool]:
    """Whether the job trains and has done so many steps."""
    return lambda status: status["phase"] == "Running" and status["progress"]["step"] >= step


def is_gone(pid: int) -> bool:
    """Whether no process of the group lives, remains that nobody reaped apart."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == pid and fields[0] != "Z":
                return False
    return True
