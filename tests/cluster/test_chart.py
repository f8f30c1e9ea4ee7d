"""What the chart renders, put before a real API server: every mode as a dry run, and the plain manifests in earnest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.harness.access import Access
from support.operator_access import new_namespace, render

CHECKOUT = Path(__file__).parents[2]
RESTRICTED = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn")}

MODES: dict[str, dict[str, Any]] = {
    "cluster-wide": {},
    "every-switch-on": {
        "gang": {"native": True, "volcano": True, "coscheduling": True},
        "progress": {"viaApiProxy": True},
        "networkPolicy": {"enabled": True, "metricsFrom": [{"namespaceSelector": {}}]},
        "grafanaDashboard": {"enabled": True},
        "imagePullSecrets": [{"name": "registry"}],
        "trainer": {"imagePullSecrets": [{"name": "registry"}]},
    },
    "one-replica": {"replicas": 1, "leaderElection": {"enabled": False}, "userRoles": {"enabled": False}},
    "no-user-given": {"podSecurityContext": {"runAsUser": None, "runAsGroup": None}},
}


@pytest.fixture(scope="module")
def system(cluster: Access) -> Iterator[str]:
    """A namespace for the operator where only restricted pods may run, and Kubernetes says which may not."""
    with new_namespace(cluster, "adts-chart", RESTRICTED) as name:
        yield name


@pytest.fixture(scope="module")
def watched(cluster: Access) -> Iterator[str]:
    """A namespace for jobs."""
    with new_namespace(cluster, "adts-chart-jobs") as name:
        yield name


def dry_run(cluster: Access, namespace: str, objects: list[dict[str, Any]]) -> str:
    """Server-side apply without effect; a warning of the API server, such as of Pod Security, fails it."""
    return cluster.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--warnings-as-errors"),
        *("-n", namespace, "-f", "-"),
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_api_server_takes_what_the_chart_renders(cluster: Access, system: str, mode: str) -> None:
    objects = render("adts", system, MODES[mode])
    for item in objects:
        if item["kind"] == "Pod":  # its account exists only while `helm test` runs
            item["spec"]["serviceAccountName"] = "default"
    answer = dry_run(cluster, system, objects)
    assert answer.count("serverside-applied") == len(objects)


def test_the_api_server_takes_roles_in_watched_namespaces(cluster: Access, system: str, watched: str) -> None:
    objects = [it for it in render("adts", system, {"watchNamespaces": [watched]}) if it["kind"].startswith("Role")]
    by_namespace: dict[str, list[dict[str, Any]]] = {}
    for item in objects:
        by_namespace.setdefault(item["metadata"]["namespace"], []).append(item)
    assert set(by_namespace) == {system, watched}
    for namespace, items in by_namespace.items():
        dry_run(cluster, namespace, items)


@pytest.mark.timeout(300)
def test_the_plain_manifests_run_an_operator_and_their_deletion_leaves_the_definition(
    cluster: Access, operator_image: str
) -> None:
    crd, plain = CHECKOUT / "crds" / "distributedtrainings.adts.dev.yaml", CHECKOUT / "deploy" / "operator.yaml"
    text = plain.read_text().replace("image: adts/operator:0.1.0", f"image: {operator_image}")
    assert operator_image in text
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crd))
    cluster.kubectl("apply", "-f", "-", stdin=text)
    try:
        rollout = ("rollout", "status", "deployment/adts-operator", "--timeout=120s")
        cluster.kubectl("-n", "adts-system", *rollout, timeout=130)
    finally:
        cluster.kubectl("delete", "-f", "-", "--ignore-not-found", "--timeout=90s", stdin=text, timeout=100)
    assert cluster.get("crd", "distributedtrainings.adts.dev") is not None
    assert cluster.get("namespace", "adts-system") is None
