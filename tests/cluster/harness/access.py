"""What a test may ask of any cluster, our own or a given one: kubectl, and reading objects through it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.harness.process import NO_PROXY, ClusterError, run


class Access:
    """A cluster as its kubeconfig sees it."""

    def __init__(self, kubeconfig: Path, kubectl: Path) -> None:
        self.kubeconfig = kubeconfig
        self._kubectl = kubectl

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60, check: bool = True) -> str:
        """Runs kubectl as the cluster's admin and returns what it printed."""
        command = [self._kubectl, f"--kubeconfig={self.kubeconfig}", *arguments]
        return run(*command, stdin=stdin or "", timeout=timeout, check=check, environment=NO_PROXY)

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        """An object, or None where there is none."""
        text = self.kubectl("get", kind, name, "-n", namespace, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text else None

    def items(self, kind: str, namespace: str = "default", selector: str = "") -> list[dict[str, Any]]:
        """All objects of a kind that carry the labels."""
        text = self.kubectl("get", kind, "-n", namespace, "-l", selector, "-o", "json")
        return list(json.loads(text)["items"])

    def apply(self, manifest: str, namespace: str = "default") -> str:
        """`kubectl apply` of YAML text."""
        return self.kubectl("apply", "-n", namespace, "-f", "-", stdin=manifest)

    def is_node_ready(self, name: str) -> bool:
        """Whether the node is Ready; also not while the API server cannot say."""
        try:
            node = self.get("node", name)
        except ClusterError:
            return False
        conditions = node["status"].get("conditions", []) if node else []
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
