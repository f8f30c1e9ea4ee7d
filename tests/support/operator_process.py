"""The operator as a process of this machine, against a real API server: for tests that kill it or stand between."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

STOP_SECONDS = 20.0


class OperatorProcess:
    """`python -m adts_operator`, started with a kubeconfig; stop or kill it in the end."""

    def __init__(self, kubeconfig: Path | str, folder: Path, **settings: str) -> None:
        """`settings` without their prefix: WATCH_NAMESPACES="a,b"."""
        self.port = free_port()
        defaults = {"LOG_FORMAT": "text", "LEADER_ELECTION": "false", "HEALTH_PORT": str(self.port)}
        ours = {f"ADTS_OPERATOR_{name}": value for name, value in (defaults | settings).items()}
        # Not the coverage, proxies and the like of the test run itself.
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._environment = kept | ours | {"KUBECONFIG": str(kubeconfig), "PYTHONUNBUFFERED": "1"}
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"operator-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "start() comes first"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> OperatorProcess:
        """Starts it, by default until it knows everything that exists."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "adts_operator"], env=self._environment, stdout=log, stderr=log
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Until /readyz says yes; raises AssertionError with its log where it ends or takes too long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.get("/readyz") == 200:
                return
            assert self.is_running, f"the operator has ended:\n{self.tail()}"
            time.sleep(0.05)
        raise AssertionError(f"the operator is not ready after {seconds:g} s:\n{self.tail()}")

    def get(self, path: str) -> int:
        """Code of a GET on its health port; 0 without an answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metrics(self) -> str:
        """The body of /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and SIGKILL where that does not help; its exit code."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    def tail(self, size: int = 4000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
