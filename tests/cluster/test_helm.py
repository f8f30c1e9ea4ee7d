"""The life of a release: the real Helm installs, tests, upgrades and removes the operator while jobs run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adts_operator.core.times import to_seconds
from cluster.harness.access import Access
from cluster.harness.binaries import binaries
from cluster.harness.process import NO_PROXY
from support.cluster_jobs import PATIENCE, Jobs, script, wait_for
from support.operator_access import CHART, Account, new_namespace

pytestmark = pytest.mark.timeout(400)

RELEASE = "adts"
NAME = "adts-operator"
CRD = "distributedtrainings.adts.dev"
OPERATORS = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=operator"
RESTRICTED = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn")}
FAILOVER_SECONDS = 20.0
UNTIL_TOLD = "trap 'exit 143' TERM; until [ -e /tmp/end ]; do sleep 0.2; done; echo done"
"""A script that ends when a file says so."""

Measured = Callable[[str], None]


class Release:
    """Helm, for one release in one namespace."""

    def __init__(self, cluster: Access, namespace: str, image: str, home: Path) -> None:
        self.cluster, self.namespace = cluster, namespace
        repository, _, tag = image.rpartition(":")
        self.values: dict[str, Any] = {
            "image": {"repository": repository, "tag": tag},
            "trainer": {"image": image},
        }
        self._environment = {"HOME": str(home), "PATH": os.environ["PATH"], "KUBECONFIG": str(cluster.kubeconfig)}

    def helm(self, *arguments: str, check: bool = True, **values: Any) -> str:
        """Runs Helm; both of its outputs."""
        command = [str(binaries() / "helm"), *arguments, "--namespace", self.namespace, "--timeout", "150s"]
        stdin = None
        if arguments[0] in ("install", "upgrade"):
            command += ["--wait", "--values", "-"]
            stdin = json.dumps(self.values | values)
        done = subprocess.run(
            command,
            input=stdin,
            env=self._environment | NO_PROXY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout

    def install(self, **values: Any) -> str:
        """Also where the definition is there already: the cluster is shared, and an uninstall keeps it."""
        ours = ("--take-ownership", "--force-conflicts")
        return self.helm("install", RELEASE, str(CHART), *ours, **values)

    def pods(self) -> list[dict[str, Any]]:
        """The operator's pods that are not on their way out."""
        found = self.cluster.items("pods", self.namespace, OPERATORS)
        return [it for it in found if not it["metadata"].get("deletionTimestamp")]

    def leader(self) -> str:
        """Name of the pod that holds the Lease; empty where none does."""
        lease = self.cluster.get("lease", NAME, self.namespace) or {"spec": {}}
        return str(lease["spec"].get("holderIdentity") or "").partition("_")[0]

    def account(self) -> Account:
        """The operator's account, for what the audit log knows of it."""
        return Account(
            user=f"system:serviceaccount:{self.namespace}:{NAME}",
            kubeconfig=self.cluster.kubeconfig,
            rights=frozenset(),
            audit_log=getattr(self.cluster, "audit_log", None),
        )


@pytest.fixture(scope="module")
def release(cluster: Access, operator_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Installed in a namespace where only restricted pods may run; no request of it was refused by RBAC."""
    with new_namespace(cluster, "adts-helm", RESTRICTED) as system:
        release = Release(cluster, system, operator_image, tmp_path_factory.mktemp("helm"))
        release.install()
        try:
            yield release
            assert release.account().forbidden() == []
        finally:
            release.helm("uninstall", RELEASE, "--wait", "--ignore-not-found")


@pytest.fixture
def jobs(cluster: Access, release: Release) -> Iterator[Jobs]:
    """A namespace for the jobs of one test, where only restricted pods may run."""
    with new_namespace(cluster, "adts-helm-jobs", RESTRICTED) as name:
        yield Jobs(cluster.kubectl, name)


def start(jobs: Jobs, name: str) -> list[str]:
    """A job of two pods that run until they are told to end; the UIDs of its pods."""
    jobs.apply(script(name, jobs.namespace, UNTIL_TOLD, runPolicy={"gracePeriodSeconds": 5}))
    jobs.wait(name, "Running", PATIENCE)
    return uids(jobs, name)


def uids(jobs: Jobs, name: str) -> list[str]:
    return [pod["metadata"]["uid"] for pod in jobs.pods(name)]


def finish(jobs: Jobs, name: str) -> dict[str, Any]:
    """Tells the pods of a job to end; its last status."""
    for pod in jobs.pods(name):
        jobs.execute(pod["metadata"]["name"], "touch /tmp/end")
    return jobs.wait(name, "Succeeded", PATIENCE)


def test_two_operators_run_on_two_nodes_as_restricted_pods_and_one_leads(release: Release) -> None:
    pods = release.pods()
    assert [it["status"]["phase"] for it in pods] == ["Running", "Running"]
    assert len({it["spec"]["nodeName"] for it in pods}) == 2
    wait_for(lambda: release.leader() in {it["metadata"]["name"] for it in pods}, PATIENCE, "a leader", release.leader)


def test_helm_test_checks_the_installation_and_leaves_nothing(release: Release) -> None:
    answer = release.helm("test", RELEASE, "--logs")
    for words in (
        "ok: the operator is ready",
        "ok: DistributedTraining adts.dev/v1alpha1 is served",
        "ok: a small job is accepted (dry run)",
        "ok: a job without model and command is refused (dry run)",
    ):
        assert words in answer
    kinds = "pods,serviceaccounts,roles,rolebindings"
    left = release.cluster.kubectl("-n", release.namespace, "get", kinds, "-o", "name").split()
    assert [it for it in left if it.endswith("-test")] == []


def test_whoever_may_edit_in_a_namespace_may_train_there_and_whoever_may_view_may_look(
    release: Release, jobs: Jobs
) -> None:
    namespace = jobs.namespace
    for role in ("edit", "view"):
        release.cluster.kubectl(
            "-n", namespace, "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er"
        )

    def may(user: str, verb: str, where: str = namespace) -> bool:
        question = ("auth", "can-i", verb, "distributedtrainings.adts.dev", "-n", where, f"--as={user}")
        return release.cluster.kubectl(*question, check=False).strip() == "yes"

    wait_for(lambda: may("editer", "create"), PATIENCE, "the rights flow into the role edit")
    assert [may("editer", verb) for verb in ("get", "watch", "patch", "delete")] == [True] * 4
    assert [may("viewer", verb) for verb in ("get", "watch", "create", "delete")] == [True, True, False, False]
    assert not may("editer", "create", "default")


def test_a_job_runs_to_its_end_where_only_restricted_pods_may_run(jobs: Jobs) -> None:
    start(jobs, "good")
    status = finish(jobs, "good")
    assert (status["attempt"], status["workers"]["succeeded"]) == (1, 2)


def test_another_operator_leads_when_the_leader_goes(release: Release, jobs: Jobs, measured: Measured) -> None:
    before = start(jobs, "through-failover")
    old = release.leader()
    release.cluster.kubectl("-n", release.namespace, "delete", "pod", old, "--grace-period=0", "--force")
    seconds = wait_for(lambda: release.leader() not in ("", old), PATIENCE, "another leader", release.leader)
    measured(f"leader failover after a forced delete of its pod: {seconds:.1f} s")
    assert seconds <= FAILOVER_SECONDS
    assert uids(jobs, "through-failover") == before
    assert finish(jobs, "through-failover")["attempt"] == 1


def test_an_upgrade_changes_the_operator_and_keeps_running_jobs_running(release: Release, jobs: Jobs) -> None:
    before, operators = start(jobs, "through-upgrade"), {it["metadata"]["uid"] for it in release.pods()}
    release.helm("upgrade", RELEASE, str(CHART), log={"level": "debug"}, trainer={"image": "registry.example/other:1"})
    wait_for(lambda: not operators & {it["metadata"]["uid"] for it in release.pods()}, PATIENCE, "new operators")
    job = jobs.get("through-upgrade")
    wait_for(lambda: release.leader() in {it["metadata"]["name"] for it in release.pods()}, PATIENCE, "a new leader")
    assert uids(jobs, "through-upgrade") == before
    assert finish(jobs, "through-upgrade")["attempt"] == 1
    assert job["status"]["image"] == release.values["trainer"]["image"], "a job keeps the image it began with"
    release.helm("upgrade", RELEASE, str(CHART))


def test_with_watched_namespaces_the_operator_has_roles_there_and_runs_no_other_job(
    release: Release, jobs: Jobs
) -> None:
    with new_namespace(release.cluster, "adts-helm-other") as other:
        release.helm("upgrade", RELEASE, str(CHART), watchNamespaces=[jobs.namespace])
        assert release.cluster.get("clusterrole", NAME) is None
        assert release.cluster.get("clusterrolebinding", NAME) is None
        assert release.cluster.get("role", NAME, jobs.namespace) is not None
        unwatched = Jobs(release.cluster.kubectl, other)
        unwatched.apply(script("ignored", other, "true"))
        start(jobs, "watched")
        assert finish(jobs, "watched")["attempt"] == 1
        assert unwatched.status("ignored") == {}
        assert "ok: a small job is accepted" in release.helm("test", RELEASE, "--logs")
    release.helm("upgrade", RELEASE, str(CHART))
    assert release.cluster.get("role", NAME, jobs.namespace) is None


def test_uninstall_leaves_the_definition_and_the_jobs_whose_pods_a_reinstall_adopts(
    release: Release, jobs: Jobs
) -> None:
    before = start(jobs, "orphan")
    answer = release.helm("uninstall", RELEASE, "--wait")
    assert "[CustomResourceDefinition] distributedtrainings.adts.dev" in answer
    kinds = "deployments,pods,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets,configmaps,secrets"
    left = release.cluster.kubectl(
        *("-n", release.namespace, "get", f"{kinds},clusterroles,clusterrolebindings,leases", "-o", "name"),
        *("-l", f"app.kubernetes.io/instance={RELEASE}"),
    )
    assert left == ""
    wait_for(lambda: release.cluster.get("lease", NAME, release.namespace) is None, PATIENCE, "the Lease gone")
    assert release.cluster.get("crd", CRD) is not None
    assert uids(jobs, "orphan") == before
    for pod in jobs.pods("orphan"):
        assert pod["status"]["phase"] == "Running"
    stopped = to_seconds(jobs.status("orphan")["conditions"][0]["lastTransitionTime"])

    release.install()
    wait_for(release.leader, PATIENCE, "a leader")
    status = finish(jobs, "orphan")
    assert uids(jobs, "orphan") == before
    assert (status["attempt"], status["workers"]["succeeded"]) == (1, 2)
    assert max(to_seconds(it["lastTransitionTime"]) for it in status["conditions"]) > stopped
