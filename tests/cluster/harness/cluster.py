"""A real two-node Kubernetes on this machine: started, used and removed as one object."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType

from cluster.harness import certificates, machine, network, node_store, watchdog
from cluster.harness.access import Access
from cluster.harness.binaries import binaries
from cluster.harness.claims import claim
from cluster.harness.control_plane import ControlPlane
from cluster.harness.image_folder import Image, ImageFolder
from cluster.harness.layout import Layout
from cluster.harness.node import Node
from cluster.harness.pause_image import pause_image

NODES = (1, 2)
GPUS_PER_NODE = 8


class Cluster(Access):
    """A cluster of this machine; use it in a `with` block, or call `start` and `stop`."""

    def __init__(self, layout: Layout | None = None, nodes: Sequence[int] = NODES) -> None:
        """A new cluster under the first free number, or under that of a layout that was claimed; or one that runs."""
        self.binaries = binaries()
        self.layout = layout or claim()
        super().__init__(self.layout.kubeconfig, self.binaries / "kubectl")
        self.control_plane = ControlPlane(self.layout, self.binaries)
        self.nodes = [Node(self.layout, self.binaries, number) for number in nodes]
        self.audit_log = self.control_plane.audit_log
        self.start_seconds = 0.0
        """How long `start` took; 0 for a cluster that ran already."""

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts everything; on any failure removes what was started."""
        begin = time.monotonic()
        try:
            watchdog.start(self.layout)
            self._start()
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.monotonic() - begin
        machine.say(f"{self.layout.prefix}: {len(self.nodes)} nodes ready after {self.start_seconds:.1f} s")

    def stop(self) -> None:
        """Removes everything."""
        watchdog.stop(self.layout)

    def restart_api_server(self) -> None:
        """Stops the API server and starts it again; returns when it is ready."""
        self.control_plane.api_server.stop()
        self.control_plane.start_api_server()

    def load_image(self, image: Image) -> None:
        """Brings an image to all nodes at once."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.containerd.load(image), self.nodes))

    def shape(self, rate: str | None) -> None:
        """Limits what each node sends, "200mbit"; None lifts the limit."""
        for node in self.nodes:
            node.shape(rate)

    def advertise_gpus(self, count: int = GPUS_PER_NODE) -> None:
        """Lets every node offer GPUs that are not there: scheduling is real. To be repeated after a kubelet's start."""
        paths = ("/status/capacity/nvidia.com~1gpu", "/status/allocatable/nvidia.com~1gpu")
        patch = json.dumps([{"op": "add", "path": path, "value": str(count)} for path in paths])
        for node in self.nodes:
            self.kubectl("patch", "node", node.name, "--subresource=status", "--type=json", "-p", patch)

    def wait_for_nodes(self, seconds: float = 60) -> None:
        """Waits until every node is Ready."""
        for node in self.nodes:
            node.kubelet.wait_for(partial(self.is_node_ready, node.name), seconds, f"node {node.name} Ready")

    def _start(self) -> None:
        numbers = [node.number for node in self.nodes]
        network.set_up(self.layout, numbers)
        node_store.choose(self.layout)
        for node in self.nodes:
            node.start_containerd()
        certificates.make(self.layout, numbers)
        pause = pause_image(self.binaries / "pause", ImageFolder(self.layout.folder / "pause"))
        self.control_plane.start()
        for node in self.nodes:
            node.containerd.wait()
        self.load_image(pause)
        for node in self.nodes:
            node.start()
        self.wait_for_nodes()
        self.advertise_gpus()
        self.control_plane.wait_for_dns()
