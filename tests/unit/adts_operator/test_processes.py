"""Processes are known by PID and start time, and end with their whole group."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from adts_api.contract import ExitCode
from adts_operator.cluster import processes


def test_a_process_is_known_by_pid_and_start_time(tmp_path: Path) -> None:
    process = processes.start([sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path / "log")
    identity = processes.identify(process.pid)
    assert processes.is_alive(identity)
    other = processes.ProcessId(process.pid, "long ago")
    assert not processes.is_alive(other)
    processes.terminate(other)
    processes.kill_group(other)
    assert process.poll() is None, "another process of the same PID is left alone"
    processes.kill_group(identity)
    assert process.wait() == -signal.SIGKILL
    assert not processes.is_alive(identity)
    assert processes.container_code(-signal.SIGKILL) == 137


def test_the_group_dies_with_its_dead_leader(tmp_path: Path) -> None:
    script = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.exit(3)"
    process = processes.start([sys.executable, "-c", script], {"PATH": "/usr/bin:/bin"}, tmp_path / "log")
    identity = processes.identify(process.pid)
    assert process.wait() == 3
    child = int((tmp_path / "log").read_text())
    assert processes.start_time(child) is not None
    processes.kill_group(identity)
    for _ in range(100):
        if processes.start_time(child) is None:
            break
        time.sleep(0.02)
    assert processes.start_time(child) is None


def test_a_command_that_does_not_exist_has_the_code_of_a_shell(tmp_path: Path) -> None:
    with pytest.raises(OSError) as error:
        processes.start(["/nosuch/command"], {}, tmp_path / "log")
    assert processes.failure_code(error.value) is ExitCode.COMMAND_NOT_FOUND
