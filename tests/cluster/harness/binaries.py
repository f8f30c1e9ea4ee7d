"""Builds the programs of the cluster from the Go module beside this folder, once for every state of the module."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.harness.machine import MachineError, cache_folder, say

MODULE = Path(__file__).resolve().parent.parent / "binaries"
KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
)
LINKS = dict.fromkeys(KUBERNETES_PROGRAMS, "kubernetes") | {"etcd": "server"}
"""Name of a program -> the built file that acts as it (go names etcd's after its module's folder)."""
STAGES = "kwok-stages"
"""Folder of KWOK's stages beside the programs."""
KWOK_STAGES = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-complete.yaml",
    "pod/fast/pod-delete.yaml",
)


def binaries() -> Path:
    """The folder of all programs; built if the cache has none for this module and this Go."""
    folder = cache_folder() / f"binaries-{module_key()}"
    if folder.is_dir():
        return folder
    with locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            build(folder)
    return folder


def module_key() -> str:
    """Hash of all that decides what is built."""
    digest = hashlib.sha256(_go("env", "GOVERSION", "GOARCH").encode())
    digest.update(Path(__file__).read_bytes())  # how it is built counts too
    sources = sorted(MODULE.rglob("*.go"))
    for source in [MODULE / "go.mod", MODULE / "go.sum", *sources]:
        digest.update(str(source.relative_to(MODULE)).encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def build(folder: Path) -> None:
    """Builds beside the place and renames at the end, so that a folder in the cache is always whole."""
    say("building Kubernetes, etcd, containerd, CoreDNS, Helm and KWOK (first time: 6 to 10 minutes on 2 cores)")
    begin = time.monotonic()
    unfinished = folder.with_suffix(".building")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = ["go", "build", "-trimpath", "-ldflags", link_flags(), "-o", f"{unfinished}/", "./...", "tool"]
    done = subprocess.run(command, cwd=MODULE, env={**os.environ, "CGO_ENABLED": "0"}, capture_output=True, text=True)
    if done.returncode != 0:
        raise MachineError("go build of tests/cluster/binaries failed:\n" + "\n".join(done.stderr.splitlines()[-10:]))
    for link, target in LINKS.items():
        (unfinished / link).symlink_to(target)
    _copy_stages(unfinished / STAGES)
    unfinished.rename(folder)
    say(f"built in {time.monotonic() - begin:.0f} s: {folder}")


def _copy_stages(folder: Path) -> None:
    """KWOK's binary has no stages in it: what a fake node does to its pods comes from files of its module."""
    folder.mkdir()
    module = Path(_go("list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"))
    for stage in KWOK_STAGES:
        shutil.copyfile(module / "kustomize" / "stage" / stage, folder / Path(stage).name)


def link_flags() -> str:
    """No debug symbols; and the version that Kubernetes's own build would set: Helm and operators go by it."""
    version = _go("list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitCommit": "", "gitTreeState": "clean"}
    return " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())])


def _go(*arguments: str) -> str:
    done = subprocess.run(["go", *arguments], cwd=MODULE, capture_output=True, text=True)
    if done.returncode != 0:
        raise MachineError(f"go {arguments[0]} failed in {MODULE.name}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process at a time through; the lock goes with the process that holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
