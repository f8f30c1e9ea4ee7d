"""Cgroups of the nodes: two kubelets share one kernel, so each gets a root of its own, in cgroup v1 or v2."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from cluster.harness.layout import Layout
from cluster.harness.machine import MachineError
from cluster.harness.process import wait_until

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS_V2 = ("cpu", "cpuset", "memory", "pids", "io")


def is_v2() -> bool:
    """Whether this machine has the unified hierarchy alone; a hybrid one counts as v1, as Kubernetes sees it."""
    return (ROOT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """Folders under which cgroups stand."""
    if is_v2():
        return [ROOT]
    found = [path for path in ROOT.iterdir() if path.is_dir() and not path.is_symlink()]
    if not found:
        raise MachineError(f"no cgroup hierarchy is mounted under {ROOT}")
    return found


def make(layout: Layout, number: int) -> str:
    """Makes a node's cgroup and returns it as kubelets name it: from the hierarchy's root."""
    name = layout.node_namespace(number)
    for hierarchy in hierarchies():
        folder = hierarchy / name
        try:
            folder.mkdir(exist_ok=True)
            _prepare(hierarchy, folder)
        except OSError as error:
            raise MachineError(f"cgroup {folder} cannot be made: {error.strerror}; cgroups must be writable") from error
    return f"/{name}"


def kill(layout: Layout) -> None:
    """Kills whatever runs in the nodes' cgroups: the containers. New ones may appear meanwhile, hence the loop."""

    def is_empty() -> bool:
        pids = {pid for folder in _folders(layout) for pid in _processes(folder)}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_until(is_empty, 10)


def remove(layout: Layout) -> None:
    """Removes the nodes' cgroups, children first; the kernel may need a moment after the last process."""

    def is_removed() -> bool:
        for folder in _folders(layout):
            with contextlib.suppress(OSError):
                folder.rmdir()
        return not _folders(layout)

    wait_until(is_removed, 10)


def left(layout: Layout) -> list[Path]:
    """Cgroups that still exist."""
    return _folders(layout)


def _prepare(hierarchy: Path, folder: Path) -> None:
    if is_v2():
        # a controller counts in a child only after its parent has switched it on
        available = (hierarchy / "cgroup.controllers").read_text().split()
        wanted = " ".join(f"+{name}" for name in CONTROLLERS_V2 if name in available)
        (hierarchy / "cgroup.subtree_control").write_text(wanted)
    elif (folder / "cpuset.cpus").exists():
        # a new v1 cpuset is empty, and nothing can be put into an empty one
        for values in ("cpuset.cpus", "cpuset.mems"):
            (folder / values).write_text((hierarchy / values).read_text())


def _folders(layout: Layout) -> list[Path]:
    """The nodes' cgroups in all hierarchies, deepest first."""
    tops = [top for hierarchy in hierarchies() for top in hierarchy.glob(f"{layout.prefix}-*")]
    folders = [Path(path) for top in tops for path, _, _ in os.walk(top, topdown=False)]
    return [folder for folder in folders if folder.is_dir()]


def _processes(folder: Path) -> list[int]:
    try:
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []
