"""One node: containerd, kubelet and kube-proxy in a network namespace of their own, with a cgroup of their own."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from cluster.harness import cgroups, network, node_store
from cluster.harness.binaries import locked
from cluster.harness.containerd import Containerd
from cluster.harness.layout import Layout
from cluster.harness.process import Daemon

KUBELETS_LOCK = Path("/run/adts-kubelets.lock")
DEVICE_PLUGIN_REGISTRY = Path("/var/lib/kubelet/device-plugins/kubelet.sock")


class Node:
    """Node number `number`, named n<number> in Kubernetes."""

    def __init__(self, layout: Layout, binaries: Path, number: int) -> None:
        self._layout = layout
        self._binaries = binaries
        self.number = number
        self.name = f"n{number}"
        self.address = layout.node_address(number)
        self.namespace = layout.node_namespace(number)
        self.folder = layout.folder / self.name
        self.containerd = Containerd(
            f"containerd-{self.name}",
            self.folder,
            layout.run_folder / self.name,
            layout.folder,
            binaries,
            self.namespace,
        )
        self.kubelet = self._daemon("kubelet", *self._kubelet_flags())
        self.proxy = self._daemon("kube-proxy", *self._proxy_flags())

    def start_containerd(self) -> None:
        """Needs no API server, so it comes first."""
        for name in ("cni", "log", "kubelet"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "cni" / "10-bridge.conflist").write_text(json.dumps(self._cni_config()))
        node_store.seed(self._layout, self.containerd.root)
        self.containerd.start()

    def start(self) -> None:
        """Starts kubelet and kube-proxy; the API server must be there."""
        cgroup = cgroups.make(self._layout, self.number)
        (self.folder / "resolv.conf").write_text(f"nameserver {self._layout.control_plane_address}\n")
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(self._kubelet_config(cgroup)))
        self.start_kubelet()
        self.proxy.start()

    def stop_kubelet(self) -> None:
        """The kubelet is gone, its containers run on."""
        self.kubelet.stop()

    def start_kubelet(self) -> None:
        """One at a time on the machine: the registry of device plugins has a fixed path, and of two kubelets that
        replace it at the same moment one ends with "address already in use"."""
        with locked(KUBELETS_LOCK):
            before = _registry_age()
            self.kubelet.start()
            self.kubelet.wait_for(
                lambda: _registry_age() not in (before, 0), 60, f"{self.name}: device plugin registry"
            )

    def link_down(self) -> None:
        """Pulls the node's cable."""
        network.set_link(self._layout, self.number, "down")

    def link_up(self) -> None:
        network.set_link(self._layout, self.number, "up")

    def shape(self, rate: str | None) -> None:
        """Limits what the node sends, "200mbit"; None lifts the limit."""
        network.shape(self._layout, self.number, rate)

    def _daemon(self, name: str, *flags: str | Path) -> Daemon:
        return Daemon(f"{name}-{self.name}", [self._binaries / name, *flags], self._layout.folder, self.namespace)

    def _cni_config(self) -> dict[str, object]:
        """Pods hang on a bridge of their node; the other node's pods are a route away."""
        subnet = self._layout.node_pod_range(self.number)
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(self.folder / "addresses"),
        }
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
        return {"cniVersion": "1.0.0", "name": self.namespace, "plugins": [bridge]}

    def _kubelet_config(self, cgroup: str) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "address": self.address,
            "healthzBindAddress": "127.0.0.1",
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "podLogsDir": str(self.folder / "log"),
            "clusterDNS": [self._layout.control_plane_address],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.folder / "resolv.conf"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,  # a lower score needs CAP_SYS_RESOURCE
            "localStorageCapacityIsolation": False,
            "imageGCHighThresholdPercent": 100,  # an image once deleted could not be pulled again
            "evictionHard": {"memory.available": "100Mi"},
            "nodeStatusUpdateFrequency": "2s",
            "syncFrequency": "5s",
            "serializeImagePulls": False,
        }

    def _kubelet_flags(self) -> list[str | Path]:
        return [
            f"--config={self.folder / 'kubelet.yaml'}",
            f"--kubeconfig={self._layout.folder / 'keys' / self.name}.kubeconfig",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'kubelet' / 'pki'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
        ]

    def _proxy_flags(self) -> list[str | Path]:
        return [
            f"--kubeconfig={self._layout.folder / 'keys' / 'proxy.kubeconfig'}",
            "--proxy-mode=nftables",
            f"--hostname-override={self.name}",
            f"--cluster-cidr={self._layout.pod_range}",
            "--oom-score-adj=0",
            # these would be sysctls of the whole machine
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ]


def _registry_age() -> int:
    """When the last kubelet of this machine made its socket, ns; 0 where there is none."""
    try:
        return DEVICE_PLUGIN_REGISTRY.stat().st_ctime_ns
    except FileNotFoundError:
        return 0
