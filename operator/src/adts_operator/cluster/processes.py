"""Processes of this machine: started in a group of their own, told to stop, killed with their whole group.

A PID alone says little after a crash: it is used again. So a process is known by its PID and its start time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adts_api.contract import ExitCode


@dataclass(frozen=True)
class ProcessId:
    """A process that can still be told apart from a later one with the same PID."""

    pid: int
    started: str
    """Start time in the system's own words; empty where it was gone before it could be read."""


def start(command: Sequence[str], environment: Mapping[str, str], output: Path) -> subprocess.Popen[bytes]:
    """A process that leads its own group and writes to a file. Raises OSError where the command cannot be run.

    A file, not a pipe: the process must not stop when the reader dies.
    """
    with output.open("ab") as file:
        return subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def failure_code(error: OSError) -> ExitCode:
    """The exit code that a container runtime gives for a command that cannot be run."""
    return ExitCode.COMMAND_NOT_FOUND if isinstance(error, FileNotFoundError) else ExitCode.COMMAND_NOT_EXECUTABLE


def identify(pid: int) -> ProcessId:
    """The identity of a running process."""
    return ProcessId(pid, start_time(pid) or "")


def is_alive(process: ProcessId) -> bool:
    """Whether this very process still runs."""
    return start_time(process.pid) == process.started


def start_time(pid: int) -> str | None:
    """When a process started; None where there is none, or only its remains wait to be reaped."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else fields[19]
    ps = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return None if len(ps) < 2 or ps[0].startswith("Z") else ps[1].strip()


def terminate(process: ProcessId) -> None:
    """Asks the process to save and leave; its children are its own business."""
    if is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)


def kill_group(process: ProcessId) -> None:
    """Kills everything in the group that the process leads, also after it ended itself.

    While one member lives, the system gives the number to no other process: another start time means another group.
    """
    now = start_time(process.pid)
    if now is not None and now != process.started:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def container_code(returncode: int) -> int:
    """The exit code as a container runtime reports it: 128 + n for signal n."""
    return returncode if returncode >= 0 else 128 - returncode
