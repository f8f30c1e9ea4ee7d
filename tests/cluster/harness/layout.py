"""Names, addresses and folders of one cluster: all of them follow from its index, so that clusters never share one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.harness.machine import cache_folder

INDEXES = range(16)
"""The address plan has room for this many clusters on one machine."""


@dataclass(frozen=True)
class Layout:
    """Where cluster number `index` lives. A node is numbered from 1."""

    index: int

    @property
    def prefix(self) -> str:
        """Begins the name of every namespace, link and cgroup of the cluster."""
        return f"adts-{self.index}"

    @property
    def folder(self) -> Path:
        """All state: keys, logs, pid files, etcd's data, the nodes' files. Beside the image cache, on its disk."""
        return cache_folder() / f"cluster-{self.index}"

    @property
    def run_folder(self) -> Path:
        """Sockets and what containerd keeps beside them: a socket's path may be no longer than 107 characters."""
        return Path("/run") / self.prefix

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def control_plane_namespace(self) -> str:
        return f"{self.prefix}-cp"

    @property
    def host_link(self) -> str:
        """The host's own leg on the cluster's bridge."""
        return f"{self.prefix}-host"

    @property
    def control_plane_address(self) -> str:
        return f"10.200.{self.index}.1"

    @property
    def host_address(self) -> str:
        return f"10.200.{self.index}.254"

    @property
    def api_server(self) -> str:
        return f"https://{self.control_plane_address}:6443"

    @property
    def pod_range(self) -> str:
        """Pod networks of all nodes."""
        return f"10.201.{16 * self.index}.0/20"

    @property
    def service_range(self) -> str:
        return f"10.202.{16 * self.index}.0/20"

    @property
    def api_service_address(self) -> str:
        """ClusterIP of kubernetes.default, the first of the range."""
        return f"10.202.{16 * self.index}.1"

    @property
    def fake_pod_range(self) -> str:
        """Addresses of KWOK's pods."""
        return f"10.{210 + self.index}.0.0/16"

    def node_namespace(self, number: int) -> str:
        return f"{self.prefix}-n{number}"

    def node_address(self, number: int) -> str:
        return f"10.200.{self.index}.{10 + number}"

    def node_pod_range(self, number: int) -> str:
        return f"10.201.{16 * self.index + number}.0/24"
