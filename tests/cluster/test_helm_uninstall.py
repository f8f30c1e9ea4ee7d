"""`helm uninstall` takes the operator and leaves the users' work, which a reinstall takes up again."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.harness.access import Access
from support.cluster_jobs import PATIENCE, Jobs, wait_for
from support.helm_release import NAME, RELEASE, RESTRICTED, Release, finish, installed, start, uids
from support.operator_access import new_namespace

KINDS = (
    "deployments,pods,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets,configmaps,secrets,"
    "clusterroles,clusterrolebindings"
)


def left(release: Release) -> list[str]:
    """What is there of the release."""
    label = f"app.kubernetes.io/instance={RELEASE}"
    return release.cluster.kubectl("-n", release.namespace, "get", KINDS, "-o", "name", "-l", label).split()


@pytest.mark.timeout(400)
def test_uninstall_leaves_the_definition_and_the_jobs_whose_pods_a_reinstall_adopts(
    cluster: Access, operator_image: str, tmp_path: Path
) -> None:
    with (
        installed(cluster, operator_image, tmp_path) as release,
        new_namespace(cluster, "adts-helm-jobs", RESTRICTED) as namespace,
    ):
        jobs = Jobs(cluster.kubectl, namespace)
        before = start(jobs, "orphan")

        answer = release.helm("uninstall", RELEASE)
        assert "[CustomResourceDefinition] distributedtrainings.adts.dev" in answer
        wait_for(lambda: not left(release), PATIENCE, "nothing left", lambda: left(release))
        wait_for(lambda: cluster.get("lease", NAME, release.namespace) is None, PATIENCE, "the Lease gone")
        assert cluster.get("crd", "distributedtrainings.adts.dev") is not None
        assert jobs.status("orphan")["phase"] == "Running"
        assert [it["status"]["phase"] for it in jobs.pods("orphan")] == ["Running", "Running"]
        assert uids(jobs, "orphan") == before

        release.install()
        status = finish(jobs, "orphan")
        assert uids(jobs, "orphan") == before
        assert (status["attempt"], status["workers"]["succeeded"]) == (1, 2)
