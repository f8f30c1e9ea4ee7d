"""Fake nodes for benchmarks: KWOK answers for hundreds of kubelets, all else of the control plane stays real.

Its stages make a bound pod Running at once and honour deletion. Nothing listens at the pods' addresses; who wants to
answer there adds a local route for `pod_range` in the host's namespace and listens on all addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import yaml

from cluster.harness.binaries import STAGES
from cluster.harness.cluster import Cluster
from cluster.harness.process import Daemon

ANNOTATION = ("kwok.x-k8s.io/node", "fake")
READY_SECONDS = 120
PARALLEL_OPTIONS = (
    "podPlayStageParallelism",
    "nodePlayStageParallelism",
    "nodeLeaseParallelism",
    "podsOnNodeSyncParallelism",
)
PARALLEL = 16
"""How much it does at once: it must not be what a benchmark measures."""


class Kwok:
    """Fake nodes of a running cluster, for as long as the `with` block lasts."""

    def __init__(
        self, cluster: Cluster, nodes: int = 100, gpus_per_node: int = 8, pods_per_node: int = 110, cpus: int = 1000
    ) -> None:
        self._cluster = cluster
        self._capacity = {
            "cpu": str(cpus),
            "memory": "4Ti",
            "pods": str(pods_per_node),
            "nvidia.com/gpu": str(gpus_per_node),
        }
        self.node_names = [f"fake-{number}" for number in range(nodes)]
        layout = cluster.layout
        self.pod_range = layout.fake_pod_range
        self._config = layout.folder / "kwok.yaml"
        command = [
            cluster.binaries / "kwok",
            f"--config={self._config}",
            *(f"--config={stage}" for stage in sorted((cluster.binaries / STAGES).iterdir())),
            f"--kubeconfig={layout.folder / 'keys' / 'kwok.kubeconfig'}",
            f"--cidr={self.pod_range}",
            f"--node-ip={layout.control_plane_address}",
            f"--manage-nodes-with-annotation-selector={'='.join(ANNOTATION)}",
            "--node-lease-duration-seconds=40",
        ]
        self._daemon = Daemon("kwok", command, layout.folder, layout.control_plane_namespace)

    def __enter__(self) -> Self:
        options = dict.fromkeys(PARALLEL_OPTIONS, PARALLEL)
        config = {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}
        self._config.write_text(yaml.safe_dump(config))
        self._daemon.start()
        self._cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(self._manifests()), timeout=READY_SECONDS)
        self._daemon.wait_for(self._are_ready, READY_SECONDS, f"{len(self.node_names)} KWOK nodes Ready")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Takes the nodes away; their pods go with them, deleted by the cluster's own garbage collector."""
        self._cluster.kubectl("delete", "node", *self.node_names, timeout=READY_SECONDS)
        self._daemon.stop()

    def _manifests(self) -> Iterator[dict[str, object]]:
        for name in self.node_names:
            metadata = {
                "name": name,
                "annotations": dict([ANNOTATION]),
                "labels": {"kubernetes.io/hostname": name, "type": "kwok"},
            }
            status = {"capacity": self._capacity, "allocatable": self._capacity}
            yield {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}

    def _are_ready(self) -> bool:
        """Ready, and open to the scheduler: the taint of a new node goes a moment later."""
        path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{.spec.taints[*].key}{"\\n"}{end}'
        states = self._cluster.kubectl("get", "nodes", "-l", "type=kwok", "-o", f"jsonpath={path}")
        return states.split().count("True") == len(self.node_names)
