"""The life of a release: the real Helm installs, tests and upgrades the operator while jobs run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cluster.harness.access import Access
from support.cluster_jobs import PATIENCE, Jobs, wait_for
from support.helm_release import RELEASE, RESTRICTED, Release, finish, installed, start, uids
from support.operator_access import CHART, new_namespace

pytestmark = pytest.mark.timeout(400)

FAILOVER_SECONDS = 20.0
Measured = Callable[[str], None]


@pytest.fixture(scope="module")
def release(cluster: Access, operator_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """The operator for the whole cluster."""
    with installed(cluster, operator_image, tmp_path_factory.mktemp("helm")) as release:
        yield release
        assert release.account().forbidden() == [], "RBAC refused requests of the operator"


@pytest.fixture
def jobs(cluster: Access, release: Release) -> Iterator[Jobs]:
    """A namespace for the jobs of one test, where only restricted pods may run."""
    with new_namespace(cluster, "adts-helm-jobs", RESTRICTED) as name:
        yield Jobs(cluster.kubectl, name)


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
