"""Removes everything of a cluster, whatever state it is in and whoever started it: found by names and folders alone.

Nothing here needs the objects that started the cluster, so it also removes what a killed run left behind.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from cluster.harness import cgroups, network
from cluster.harness.layout import Layout
from cluster.harness.process import ClusterError, ProcessId, wait_until

PROGRAMS = {
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "coredns",
    "containerd",
    "containerd-shim-runc-v2",
    "kubelet",
    "kube-proxy",
    "kwok",
}
"""What is killed if its command line names the cluster's folders; a user's editor or `tail` is not."""

CNI_CACHE = Path("/var/lib/cni/results")


def tear_down(layout: Layout) -> None:
    """Stops and removes all. Doing it twice does no harm."""
    _kill_daemons(layout)
    cgroups.kill(layout)
    _unmount(layout)
    cgroups.remove(layout)
    network.tear_down(layout)
    _remove_cni_cache(layout)
    shutil.rmtree(layout.run_folder, ignore_errors=True)
    shutil.rmtree(layout.folder, ignore_errors=True)
    remains = left(layout)
    if remains:
        raise ClusterError(f"teardown of {layout.prefix} leaves: {', '.join(remains)}")


def left(layout: Layout) -> list[str]:
    """All that still exists of the cluster, in words; empty after a good teardown."""
    remains = [f"process {pid}" for pid in daemons(layout)]
    remains += [f"cgroup {folder}" for folder in cgroups.left(layout)]
    remains += [f"mount {path}" for path in mounts(layout)]
    remains += [f"network namespace {file.name}" for file in network.namespace_files(layout)]
    remains += [f"link {name}" for name in [layout.host_link] if Path("/sys/class/net", name).exists()]
    remains += [f"file {path}" for path in _cni_files(layout)]
    remains += [f"folder {path}" for path in (layout.run_folder, layout.folder) if path.exists()]
    return remains


def daemons(layout: Layout) -> list[int]:
    """Processes of the cluster: those in its network namespaces, and programs whose command line names its folders."""
    namespaces = {_inode(file) for file in network.namespace_files(layout)} - {None}
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    ours = [pid for pid in pids if _inode(Path(f"/proc/{pid}/ns/net")) in namespaces or _is_daemon(layout, pid)]
    return [pid for pid in ours if ProcessId.of(pid)]


def mounts(layout: Layout) -> list[str]:
    """Mount points below the cluster's folders, the innermost first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    # the kernel writes a space, tab, newline or backslash in a path as its octal number
    plain = [point.encode().decode("unicode_escape") for point in points]
    return sorted((point for point in plain if _is_ours(layout, point)), reverse=True)


def _is_ours(layout: Layout, text: str) -> bool:
    return f"{layout.folder}/" in f"{text}/" or f"{layout.run_folder}/" in f"{text}/"


def _inode(path: Path) -> int | None:
    """None if it is gone by now."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _is_daemon(layout: Layout, pid: int) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    # nsenter becomes the program that it starts; until then both stand in its arguments
    names = {Path(argument).name for argument in arguments[:3]}
    return bool(names & PROGRAMS) and any(_is_ours(layout, argument) for argument in arguments)


def _kill_daemons(layout: Layout) -> None:
    def are_gone() -> bool:
        pids = daemons(layout)
        for pid in pids:
            identity = ProcessId.of(pid)
            if identity:
                identity.kill(signal.SIGKILL)
        return not pids

    wait_until(are_gone, 10)


def _unmount(layout: Layout) -> None:
    for point in mounts(layout):
        if subprocess.run(["umount", point], capture_output=True).returncode != 0:
            subprocess.run(["umount", "--lazy", point], capture_output=True)


def _remove_cni_cache(layout: Layout) -> None:
    for path in _cni_files(layout):
        path.unlink(missing_ok=True)
    for folder in (CNI_CACHE, CNI_CACHE.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _cni_files(layout: Layout) -> list[Path]:
    """CNI notes every pod's network in one place of the machine; ours name a namespace file in our folder."""
    if not CNI_CACHE.is_dir():
        return []
    ours = f"{layout.run_folder}/"
    return [path for path in CNI_CACHE.iterdir() if path.is_file() and ours in path.read_text(errors="replace")]
