"""The command line as a user of a cluster has it: under an account of its own, in a process, its outputs in files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import yaml

from cluster.harness.access import Access
from cluster.harness.binaries import binaries
from support.cluster_jobs import PATIENCE, wait_for

PROGRAMS = Path(sys.executable).parent


class Started:
    """A command that goes on, its outputs in files of a folder."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)

    def wait_for_line(self, line: str) -> None:
        """Until it has printed this line."""
        wait_for(lambda: line in self._out.read_text().splitlines(), PATIENCE, line, self._err.read_text)

    def end(self, seconds: float = PATIENCE) -> tuple[int, str, str]:
        """Exit code and both outputs of a command that must end by itself."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"still runs: {self._out.read_text()}\n{self._err.read_text()}") from None
        return code, self._out.read_text(), self._err.read_text()


class Adts:
    """The command line of one user of the cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        self._folder = kubeconfig.parent
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        path = f"{PROGRAMS}:{binaries()}:{os.environ['PATH']}"
        self.environment = kept | {"KUBECONFIG": str(kubeconfig), "PATH": path}

    def start(self, *words: str, program: str = "adts") -> Started:
        """Starts a command."""
        return Started([*program.split(), *words], self.environment, Path(mkdtemp(dir=self._folder)))

    def __call__(self, *words: str, program: str = "adts") -> tuple[int, str, str]:
        """Runs a command to its end: exit code, output, error output."""
        return self.start(*words, program=program).end()


def user(cluster: Access, namespace: str, name: str, folder: Path) -> Adts:
    """The command line under a new account without rights, whose context names the namespace."""
    cluster.kubectl("-n", namespace, "create", "serviceaccount", name)
    token = cluster.kubectl("-n", namespace, "create", "token", name, "--duration=2h").strip()
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    (context,) = (it["context"] for it in config["contexts"] if it["name"] == config["current-context"])
    context |= {"user": name, "namespace": namespace}
    config["users"] = [{"name": name, "user": {"token": token}}]
    path = folder / f"{namespace}-{name}"
    path.write_text(yaml.safe_dump(config))
    return Adts(path)


def viewer(cluster: Access, namespace: str, folder: Path) -> Adts:
    """The command line of a user with the ClusterRole `view`, which the chart's role is part of."""
    adts, who = user(cluster, namespace, "viewer", folder), f"{namespace}:viewer"
    binding = ["create", "rolebinding", "viewer", "--clusterrole=view", f"--serviceaccount={who}"]
    cluster.kubectl("-n", namespace, *binding)
    asking = ["-n", namespace, "auth", "can-i", "watch", "dtrain", f"--as=system:serviceaccount:{who}"]
    wait_for(lambda: cluster.kubectl(*asking, check=False).strip() == "yes", PATIENCE, "a viewer sees the jobs")
    return adts
