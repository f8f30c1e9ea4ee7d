"""A release that watches some namespaces only, with Roles alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.harness.access import Access
from support.cluster_jobs import PATIENCE, Jobs, script, wait_for
from support.helm_release import NAME, RELEASE, RESTRICTED, Release, installed
from support.operator_access import new_namespace

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def watched(cluster: Access) -> Iterator[Jobs]:
    """A namespace that the operator watches."""
    with new_namespace(cluster, "adts-watched", RESTRICTED) as name:
        yield Jobs(cluster.kubectl, name)


@pytest.fixture(scope="module")
def release(
    cluster: Access, operator_image: str, watched: Jobs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """The operator without any object of the cluster: whoever installs it needs no rights beyond namespaces."""
    crd = cluster.kubectl("get", "crd", "distributedtrainings.adts.dev", "--ignore-not-found", "-o", "name")
    values: dict[str, Any] = {"watchNamespaces": [watched.namespace], "userRoles": {"enabled": False}}
    values["crds"] = {"enabled": not crd}
    with installed(cluster, operator_image, tmp_path_factory.mktemp("helm"), **values) as release:
        yield release
        assert release.account().forbidden() == [], "RBAC refused requests of the operator"


def test_the_operator_has_roles_in_the_watched_namespace_and_no_cluster_role(release: Release, watched: Jobs) -> None:
    get = release.cluster.get
    assert get("role", NAME, watched.namespace) is not None
    assert get("rolebinding", NAME, watched.namespace) is not None
    for kind in ("clusterrole", "clusterrolebinding"):
        found = json.loads(release.cluster.kubectl("get", kind, "-o", "json", "-l", f"app.kubernetes.io/name={NAME}"))
        assert found["items"] == []
        assert get(kind, NAME) is None


def test_it_runs_jobs_there_and_nowhere_else(release: Release, watched: Jobs) -> None:
    with new_namespace(release.cluster, "adts-unwatched") as name:
        other = Jobs(release.cluster.kubectl, name)
        other.apply(script("ignored", name, "true"))
        watched.apply(script("seen", watched.namespace, "echo done"))
        watched.wait("seen", "Succeeded", PATIENCE)
        assert other.status("ignored") == {}
        other.delete("ignored")
    watched.delete("seen")
    watched.wait_gone("seen")


def test_helm_test_tries_its_job_in_a_watched_namespace(release: Release, watched: Jobs) -> None:
    assert "ok: a small job is accepted (dry run)" in release.helm("test", RELEASE, "--logs")
    wait_for(lambda: release.cluster.get("role", f"{NAME}-test", watched.namespace) is None, PATIENCE, "no role left")
