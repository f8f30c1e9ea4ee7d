"""Removes a cluster when the process that owns it ends without doing so: SIGTERM, SIGKILL, a crash of Python."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

from cluster.harness import claims, teardown
from cluster.harness.layout import Layout
from cluster.harness.process import ProcessId, spawn, wait_until

PID_FILE = "watchdog"


def start(layout: Layout) -> None:
    """Starts the watchdog of the cluster that this process owns."""
    command = [sys.executable, "-m", "cluster.harness", "watch", str(layout.index)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    identity = spawn(command, environment, layout.folder / "log" / "watchdog")
    identity.write(layout.folder / PID_FILE)


def stop(layout: Layout) -> None:
    """Removes the cluster; the watchdog goes last, so that it also ends a removal that is cut short."""
    identity = ProcessId.read(layout.folder / PID_FILE)
    teardown.tear_down(layout)
    _dismiss(identity)


def release(layout: Layout) -> None:
    """Lets the cluster stay when this process ends."""
    _dismiss(ProcessId.read(layout.folder / PID_FILE))
    claims.give_up(layout)


def watch(layout: Layout) -> None:
    """Waits for the owner's end, however it comes, and removes what is left of the cluster."""
    owner = claims.owner(layout)
    if owner is None:
        return
    try:
        descriptor = os.pidfd_open(owner.pid)
    except ProcessLookupError:
        pass
    else:
        if owner.is_alive():
            select.select([descriptor], [], [])
    if claims.owner(layout) == owner:  # or else the number has a new owner
        teardown.tear_down(layout)


def _dismiss(identity: ProcessId | None) -> None:
    if identity:
        identity.kill(signal.SIGKILL)
        wait_until(lambda: not identity.is_alive(), 5)
