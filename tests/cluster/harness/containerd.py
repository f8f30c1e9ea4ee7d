"""One containerd: its settings, its client, and images brought to it without a registry."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cluster.harness.image_folder import Image
from cluster.harness.machine import cni_folder
from cluster.harness.process import ClusterError, Daemon, run

SANDBOX_IMAGE = "adts.test/pause:1"
IMPORT_SECONDS = 600

# Several of them run on one machine and share no path; they need neither CAP_SYS_RESOURCE nor AppArmor.
CONFIG = """\
version = 3
root = "{folder}/containerd"
state = "{run_folder}/containerd"
[grpc]
  address = "{run_folder}/containerd.sock"
[ttrpc]
  address = "{run_folder}/containerd.sock.ttrpc"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = "{run_folder}/shims"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{sandbox_image}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{cni_folder}"]
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    Root = "{run_folder}/runc"
    SystemdCgroup = false
"""


class Containerd:
    """A containerd that keeps its images and containers in `folder` and its sockets in `run_folder`."""

    def __init__(
        self, name: str, folder: Path, run_folder: Path, cluster_folder: Path, binaries: Path, namespace: str | None
    ) -> None:
        self._folder = folder
        self._run_folder = run_folder
        self._binaries = binaries
        self.socket = run_folder / "containerd.sock"
        command = [binaries / "containerd", "--config", folder / "containerd.toml"]
        path = {"PATH": f"{binaries}:{os.environ['PATH']}"}  # where it looks for its shim
        self.daemon = Daemon(name, command, cluster_folder, namespace, path)

    @property
    def root(self) -> Path:
        """What it keeps: content, unpacked layers and its databases."""
        return self._folder / "containerd"

    def start(self) -> None:
        """Starts it; `wait` says when it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._run_folder / "shims").mkdir(parents=True, exist_ok=True)
        config = CONFIG.format(
            folder=self._folder,
            run_folder=self._run_folder,
            sandbox_image=SANDBOX_IMAGE,
            cni_folder=cni_folder(),
        )
        (self._folder / "containerd.toml").write_text(config)
        self.daemon.start()

    def wait(self) -> None:
        """Waits until it answers."""
        self.daemon.wait_for(self._answers, 30, f"{self.daemon.name} answers")

    def ctr(self, *arguments: str) -> str:
        """containerd's own client, in the kubelet's namespace of names."""
        return run(*self._ctr, *arguments)

    def load(self, image: Image) -> None:
        """Imports an image; only what is not there is sent."""
        present = set(self.ctr("content", "ls", "--quiet").split())
        command = [*map(str, self._ctr), "images", "import", "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as ctr:
            assert ctr.stdin
            assert ctr.stdout
            try:
                with ctr.stdin:
                    image.write_archive(ctr.stdin, present)
                complaint = ""
            except BrokenPipeError:
                complaint = "it stopped reading"
            output = ctr.stdout.read().decode(errors="replace")
        if complaint or ctr.returncode != 0:
            raise ClusterError(f"{self.daemon.name} does not import {image.name}: {complaint} {output.strip()}")

    @property
    def _ctr(self) -> list[object]:
        return [self._binaries / "ctr", "--address", self.socket, "--namespace", "k8s.io"]

    def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        try:
            self.ctr("version")
        except ClusterError:
            return False
        return True
