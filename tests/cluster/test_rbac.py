"""The operator's rights on a real API server: none is missing, and none is granted that it never uses.

Every other test here checks the first of these as well, see `operating`. What a request was refused for is taken from
the audit log, since quota and Pod Security answer 403 too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from adts_api.contract import ConditionType
from cluster.harness.cluster import Cluster
from support.cluster_jobs import PATIENCE, RUN_ON, Jobs, attempt_of, manifest, script, wait_for
from support.operator_access import SHELL_IMAGE, Place, new_namespace, operating

NOWHERE = {"template": {"spec": {"nodeSelector": {"adts.dev/none": "none"}}}}
"""Pods that stay Pending."""
QUIET_SECONDS = 5.0


@pytest.fixture(scope="module")
def other(cluster: Cluster) -> Iterator[str]:
    """A second namespace."""
    with new_namespace(cluster, "adts-test-other") as name:
        yield name


@pytest.fixture(autouse=True)
def audited(cluster: Cluster) -> None:
    if getattr(cluster, "audit_log", None) is None:
        pytest.skip("the audit log of a given cluster is out of reach")


def command(namespace: str, name: str, code: str = RUN_ON, **spec: Any) -> dict[str, Any]:
    policy = {"gracePeriodSeconds": 5, **spec.pop("runPolicy", {})}
    return script(name, namespace, code, runPolicy=policy, **spec)


def model(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    """A job of our trainer, whose pods have a ConfigMap and a Secret."""
    whole = {
        "model": {"type": "mlp", "inputSize": 4, "outputSize": 2},
        "data": {"type": "synthetic"},
        "training": {"steps": 10},
        "runPolicy": {"gracePeriodSeconds": 5},
    }
    return manifest(name, namespace, whole | spec)


def test_every_right_is_used_in_the_whole_cluster(
    cluster: Cluster, other: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cluster-wide")
    with operating(cluster, folder, cluster_wide=True, LEADER_ELECTION="true") as place:
        lead_a_whole_life(place)
        jobs = Jobs(cluster.kubectl, other)
        jobs.apply(command(other, "elsewhere", "exit 0"))
        jobs.wait("elsewhere", "Succeeded", PATIENCE)
        assert used(place) == place.account.rights


def test_every_right_is_used_in_watched_namespaces(
    cluster: Cluster, other: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = {"progress": {"viaApiProxy": True}, "userRoles": {"enabled": False}}
    settings = {"LEADER_ELECTION": "true", "PROGRESS_BY": "api-proxy"}
    with operating(cluster, tmp_path_factory.mktemp("namespaces"), values=values, **settings) as place:
        assert may(place, place.namespace) == "yes"
        assert may(place, other) == "no", "Roles alone"
        unwatched = Jobs(cluster.kubectl, other)
        unwatched.apply(command(other, "unwatched"))
        lead_a_whole_life(place)
        ask_a_lead(place)
        assert unwatched.status("unwatched") == {}
        assert unwatched.children("unwatched") == []
        assert used(place) == place.account.rights
        assert {it.namespace for it in place.account.requests()} <= {place.namespace, ""}


def used(place: Place) -> set[tuple[str, str, str]]:
    """What was asked of resources."""
    return {it.rule for it in place.account.requests() if it.resource}


def may(place: Place, namespace: str) -> str:
    """Whether the account may create pods in a namespace."""
    question = ["auth", "can-i", "create", "pods", "-n", namespace, f"--as={place.account.user}"]
    return place.cluster.kubectl(*question, check=False).strip()


def lead_a_whole_life(place: Place) -> None:
    """All that ever happens to jobs, so that every right is needed once."""
    namespace, jobs = place.namespace, place.jobs
    for thing in foreign(namespace):
        place.cluster.kubectl("create", "-f", "-", stdin=json.dumps(thing))
    jobs.apply(
        model(namespace, "waits", workers={"replicas": 2, **NOWHERE}, scheduling={"gang": "native"}),
        model(namespace, "taken", workers=NOWHERE, scheduling={"gang": "native"}),
        command(namespace, "clash"),
        command(namespace, "brief", "exit 0", runPolicy={"ttlSecondsAfterFinished": 0}),
        command(namespace, "runs"),
    )
    jobs.wait_for_condition("waits", "Running", "Unschedulable")
    place.cluster.kubectl("-n", namespace, "delete", "pod", "waits-1-1")
    wait_for(lambda: {attempt_of(it) for it in jobs.pods("waits")} == {2}, PATIENCE, "attempt 2 of waits")
    for name in ("taken", "clash"):
        jobs.wait_for_condition(name, ConditionType.VALID, "NameConflict")
    jobs.wait("runs", "Running", PATIENCE)
    for _ in range(2):  # the same event twice is one whose count is raised
        jobs.patch("runs", {"runPolicy": {"suspend": True}})
        jobs.wait("runs", "Suspended", PATIENCE)
        jobs.patch("runs", {"runPolicy": {"suspend": False}})
        jobs.wait("runs", "Running", PATIENCE)
    jobs.wait_gone("brief")


def foreign(namespace: str) -> Iterator[dict[str, Any]]:
    """Objects of somebody else's under the names that jobs need."""

    def thing(kind: str, name: str, version: str = "v1", **fields: Any) -> dict[str, Any]:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, **fields}

    policy = {"schedulingPolicy": {"gang": {"minCount": 1}}}
    pause = {"name": "theirs", "image": SHELL_IMAGE, "command": ["sh", "-c", RUN_ON]}
    yield thing("ConfigMap", "taken-1")
    yield thing("PodGroup", "taken-1", "scheduling.k8s.io/v1beta1", spec=policy)
    yield thing("Service", "taken", spec={"clusterIP": "None"})
    yield thing("Pod", "clash-0-1", spec={"containers": [pause], "terminationGracePeriodSeconds": 1})


def ask_a_lead(place: Place) -> None:
    """A trainer that is a stand-in, in a pod that runs: the operator asks it how far it is."""
    code = {"adts_trainer.py": "import time\ntime.sleep(3600)\n"}
    metadata = {"name": "stand-in", "namespace": place.namespace}
    stand_in = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": code}
    place.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(stand_in))
    container = {
        "name": "trainer",
        "env": [{"name": "PYTHONPATH", "value": "/stand-in"}],
        "volumeMounts": [{"name": "stand-in", "mountPath": "/stand-in"}],
    }
    volumes = [{"name": "stand-in", "configMap": {"name": "stand-in"}}]
    template = {"spec": {"containers": [container], "volumes": volumes}}
    place.jobs.apply(model(place.namespace, "talks", workers={"template": template}))
    asked: Callable[[], bool] = lambda: ("", "pods/proxy", "get") in used(place)  # noqa: E731  named for the message
    wait_for(asked, PATIENCE, "the lead pod is asked", lambda: place.jobs.status("talks"))


def test_a_deleted_namespace_leaves_nothing_and_the_operator_at_rest(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, measured: Callable[[str], None]
) -> None:
    with operating(cluster, tmp_path_factory.mktemp("gone"), cluster_wide=True) as place:
        with new_namespace(cluster, "adts-test-gone") as doomed:
            jobs = Jobs(cluster.kubectl, doomed)
            jobs.apply(
                command(doomed, "runs"),
                model(doomed, "waits", workers=NOWHERE),
                command(doomed, "fails", "exit 1", runPolicy={"backoffLimit": 100}),
            )
            jobs.wait("runs", "Running", PATIENCE)
            jobs.wait_for_condition("waits", "Running", "Unschedulable")
        begin = time.monotonic()
        gone: Callable[[], bool] = lambda: cluster.get("namespace", doomed) is None  # noqa: E731  named for the message
        wait_for(gone, 2 * PATIENCE, "namespace gone", lambda: cluster.get("namespace", doomed))
        measured(f"a namespace with three jobs was gone after {time.monotonic() - begin:.1f} s")
        before = len(place.account.requests())
        time.sleep(QUIET_SECONDS)
        after = [it for it in place.account.requests()[before:] if it.verb not in ("watch", "list")]
        assert [it for it in after if it.namespace == doomed] == []
