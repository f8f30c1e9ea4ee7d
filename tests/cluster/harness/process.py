"""Daemons of the cluster: started in a network namespace, recorded by pid and start time, stopped by that record."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.harness.machine import program

POLL_SECONDS = 0.1
NO_PROXY = {"NO_PROXY": "*", "no_proxy": "*"}
"""The cluster's addresses are on this machine, whatever proxy it uses for others."""


class ClusterError(Exception):
    """A part of the cluster failed; the message says which, and ends with what it last wrote."""


@dataclass(frozen=True)
class ProcessId:
    """A pid together with the start time that tells it from a later process of the same number."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The living process of that number."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @classmethod
    def me(cls) -> ProcessId:
        """This process."""
        identity = cls.of(os.getpid())
        assert identity
        return identity

    @classmethod
    def read(cls, file: Path) -> ProcessId | None:
        """What a pid file records."""
        try:
            pid, started = file.read_text().split()
        except (OSError, ValueError):
            return None
        return cls(int(pid), int(started))

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{self.pid} {self.started}\n")

    def is_alive(self) -> bool:
        with contextlib.suppress(ChildProcessError):  # not our child: somebody else reaps it
            os.waitpid(self.pid, os.WNOHANG)
        return ProcessId.of(self.pid) == self

    def kill(self, number: int) -> None:
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass
class Daemon:
    """One daemon of the cluster. Its pid file makes it the same daemon for another process of the harness."""

    name: str
    command: Sequence[object]
    folder: Path
    """The cluster's folder: log and pid file go below it."""
    namespace: str | None
    """Network namespace, or the host's. Entered with nsenter: `ip netns exec` would mount another /sys."""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.folder / "log" / self.name

    @property
    def pid_file(self) -> Path:
        return self.folder / "pids" / self.name

    def start(self) -> None:
        """Starts it in a session of its own, out of reach of the terminal's Ctrl-C."""
        if self.is_alive():
            raise ClusterError(f"{self.name} runs already")
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}"] if self.namespace else []
        command = [*enter, *map(str, self.command)]
        spawn(command, {**os.environ, **NO_PROXY, **self.environment}, self.log).write(self.pid_file)

    def is_alive(self) -> bool:
        identity = ProcessId.read(self.pid_file)
        return identity is not None and identity.is_alive()

    def stop(self, grace_seconds: float = 5.0) -> None:
        """SIGTERM, and SIGKILL after the grace; with a grace of 0, SIGKILL at once."""
        identity = ProcessId.read(self.pid_file)
        if identity is None:
            return
        if grace_seconds:
            identity.kill(signal.SIGTERM)
            wait_until(lambda: not identity.is_alive(), grace_seconds)
        identity.kill(signal.SIGKILL)
        if not wait_until(lambda: not identity.is_alive(), 10):
            raise ClusterError(f"{self.name} (pid {identity.pid}) survives SIGKILL")
        self.pid_file.unlink(missing_ok=True)

    def wait_for(self, is_ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Waits until it serves; a daemon that dies first, or never serves, is an error with the end of its log."""
        if wait_until(lambda: is_ready() or not self.is_alive(), seconds) and self.is_alive():
            return
        fate = f"not within {seconds:.0f} s" if self.is_alive() else f"{self.name} died"
        raise ClusterError(f"{what}: {fate}; the end of {self.log}:\n{self.last_lines()}")

    def last_lines(self, count: int = 8) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        except FileNotFoundError:
            return "(no log)"


def spawn(command: Sequence[str], environment: dict[str, str], log: Path) -> ProcessId:
    """Starts a process in a session of its own, with its output in a file; it may outlive this process."""
    path = program(command[0]) or command[0]
    log.parent.mkdir(parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        path,
        list(command),
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    identity = ProcessId.of(pid)
    if identity is None:
        raise ClusterError(f"{command[0]} died at once; see {log}")
    return identity


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Polls; whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def run(
    *command: object,
    stdin: str = "",
    timeout: float = 60,
    check: bool = True,
    environment: dict[str, str] | None = None,
) -> str:
    """Runs a command, its parts given as text or paths, and returns what it printed; a failure is an error.

    `environment` adds to this process's own.
    """
    arguments = [program(str(command[0])) or str(command[0]), *map(str, command[1:])]
    try:
        done = subprocess.run(
            arguments,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(map(str, command))}: not done within {timeout:.0f} s") from error
    if check and done.returncode != 0:
        raise ClusterError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
