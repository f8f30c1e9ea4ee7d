"""Gangs and queues: all pods of a job are scheduled, or none.

The cluster's own scheduler schedules native gangs for real. Of Volcano, the coscheduling plugin and Kueue there are the
CustomResourceDefinitions: the API server takes what we make for them, and their schedulers' part is played here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from adts_api.contract import LABEL_ATTEMPT
from adts_api.schedulers import (
    COSCHEDULING_API,
    COSCHEDULING_POD_GROUP,
    COSCHEDULING_SCHEDULER,
    KUEUE_GATE,
    KUEUE_GROUP,
    KUEUE_POD_GROUP,
    KUEUE_QUEUE,
    KUEUE_TOTAL_COUNT,
    VOLCANO_API,
    VOLCANO_POD_GROUP,
    VOLCANO_SCHEDULER,
)
from cluster.harness.cluster import Cluster
from support.cluster_jobs import PATIENCE, RUN_ON, Jobs, attempt_of, script, wait_for
from support.operator_access import Place, operating

NATIVE = "podgroups.scheduling.k8s.io"
GPUS_PER_NODE = 8
WRITES_BESIDE_PODS = 7

COSCHEDULING_CRD = ("sigs.k8s.io/scheduler-plugins@v0.32.7", "config/crd/bases/scheduling.x-k8s.io_podgroups.yaml")
KUEUE_CRD = ("sigs.k8s.io/kueue@v0.15.0", "config/components/crd/bases/kueue.x-k8s.io_localqueues.yaml")
VOLCANO_TYPES = ("volcano.sh/apis@v1.13.0", "pkg/apis/scheduling/v1beta1")
CONTROLLER_GEN = "sigs.k8s.io/controller-tools/cmd/controller-gen@v0.18.0"
"""Volcano's module has its CRD as Go types only; its own build makes the YAML of them in the same way."""

ALL_SWITCHES = {"gang": {"native": True, "volcano": True, "coscheduling": True}}


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with operating(cluster, tmp_path_factory.mktemp("gang"), values=ALL_SWITCHES) as running:
        yield running


@pytest.fixture
def jobs(place: Place) -> Iterator[Jobs]:
    yield place.jobs
    place.cluster.kubectl("-n", place.namespace, "delete", "dtrain", "--all", "--wait=false")


@pytest.fixture
def native(cluster: Cluster) -> None:
    """Skips where the cluster has no gangs of its own."""
    if NATIVE not in cluster.kubectl("api-resources", "--api-group=scheduling.k8s.io", "-o", "name"):
        pytest.skip("the cluster does not serve scheduling.k8s.io/v1beta1 PodGroups")


def job(jobs: Jobs, name: str, scheduling: dict[str, Any], code: str = RUN_ON, **spec: Any) -> dict[str, Any]:
    policy = {"gracePeriodSeconds": 5, **spec.pop("runPolicy", {})}
    return script(name, jobs.namespace, code, scheduling=scheduling, runPolicy=policy, **spec)


def groups(jobs: Jobs, place: Place, kind: str = NATIVE) -> list[str]:
    """Names of the PodGroups of the namespace."""
    return sorted(it["metadata"]["name"] for it in place.cluster.items(kind, jobs.namespace))


def nodes_of(jobs: Jobs, name: str) -> list[str]:
    """Nodes that were given to pods of a job."""
    return [pod["spec"]["nodeName"] for pod in jobs.pods(name) if pod["spec"].get("nodeName")]


def suspend(place: Place, name: str, kind: str) -> None:
    """Suspends a job: its PodGroup goes, also where another operator has made it."""
    place.operator.stop()
    place.operator.start()
    place.jobs.patch(name, {"runPolicy": {"suspend": True}})
    place.jobs.wait(name, "Suspended", PATIENCE)
    left: Callable[[], list[str]] = lambda: groups(place.jobs, place, kind)  # noqa: E731  named for the message
    wait_for(lambda: left() == [], PATIENCE, "no PodGroup while suspended", left)


def assert_all_rights_used(place: Place, group: str) -> None:
    """What a switch of the chart grants is needed."""
    if place.account.audit_log is not None:
        used = {it.rule for it in place.account.requests()}
        assert {it for it in place.account.rights if it[0] == group} == {it for it in used if it[0] == group}


def assert_refused(jobs: Jobs, name: str, reason: str, *words: str) -> None:
    """Valid=False with the fix, and nothing was made."""
    condition = jobs.wait_for_condition(name, "Valid", reason)
    assert condition["status"] == "False"
    assert [it for it in words if it not in condition["message"]] == [], condition["message"]
    assert jobs.children(name) == []
    assert jobs.status(name)["phase"] == "Pending"


# Before the tests that install what is lacking.
LACKING: dict[str, tuple[str, dict[str, Any], str, tuple[str, ...]]] = {
    "volcano": (
        VOLCANO_API,
        {"gang": "volcano"},
        "GangUnavailable",
        ("spec.scheduling.gang: volcano", "install Volcano"),
    ),
    "coscheduling": (
        COSCHEDULING_API,
        {"gang": "coscheduling"},
        "GangUnavailable",
        ("spec.scheduling.gang: coscheduling", "install the scheduler-plugins", "set spec.scheduling.gang: none"),
    ),
    "kueue": (KUEUE_GROUP, {"queue": "team"}, "QueueUnavailable", ("spec.scheduling.queue: team", "install Kueue")),
}


@pytest.mark.parametrize(("lacking", "api"), LACKING.items(), ids=LACKING)
def test_a_scheduler_that_the_cluster_lacks_is_an_invalid_spec(
    jobs: Jobs, place: Place, lacking: str, api: tuple[str, dict[str, Any], str, tuple[str, ...]]
) -> None:
    served, scheduling, reason, words = api
    if served in place.cluster.kubectl("api-versions"):
        pytest.skip(f"the cluster serves {served}")
    name = f"lacks-{lacking}"
    jobs.apply(job(jobs, name, scheduling))
    assert_refused(jobs, name, reason, *words)
    jobs.patch(name, {"scheduling": {"gang": "none", "queue": ""}})
    jobs.wait(name, "Running", PATIENCE)


@pytest.mark.usefixtures("native", "own_cluster")
def test_a_gang_that_does_not_fit_waits_as_a_whole(jobs: Jobs, place: Place) -> None:
    nodes = json.loads(place.cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    replicas = len(nodes) + 1
    half = GPUS_PER_NODE // 2 + 1  # two of them do not fit on one node
    jobs.apply(job(jobs, "wide", {"gang": "native"}, replicas=replicas, workers={"gpusPerWorker": half}))
    condition = jobs.wait_for_condition("wide", "Running", "Unschedulable")
    assert condition["status"] == "False"
    assert "wide-" in condition["message"]
    assert jobs.status("wide")["phase"] == "Pending"
    assert len(jobs.pods("wide")) == replicas
    assert nodes_of(jobs, "wide") == [], "no GPU is held while the rest of the gang waits"
    assert groups(jobs, place) == ["wide-1"]
    # A later job gets the room that the gang does not take.
    jobs.apply(job(jobs, "small", {}, replicas=len(nodes), workers={"gpusPerWorker": half}))
    jobs.wait("small", "Running", PATIENCE)
    jobs.delete("small")
    node = nodes[0]["metadata"]["name"]
    try:
        offer_gpus(place, node, 2 * half)
        assert jobs.wait("wide", "Running", PATIENCE)["attempt"] == 1
        assert len(nodes_of(jobs, "wide")) == replicas
    finally:
        offer_gpus(place, node, GPUS_PER_NODE)


def offer_gpus(place: Place, node: str, count: int) -> None:
    """Lets a node advertise so many GPUs, none of which is there."""
    paths = ("/status/capacity/nvidia.com~1gpu", "/status/allocatable/nvidia.com~1gpu")
    patch = json.dumps([{"op": "add", "path": path, "value": str(count)} for path in paths])
    place.cluster.kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", patch)


@pytest.mark.usefixtures("native")
def test_a_gang_costs_one_request_more(jobs: Jobs, place: Place, measured: Callable[[str], None]) -> None:
    if place.account.audit_log is None:
        pytest.skip("the audit log of a given cluster is out of reach")
    before = len(place.account.requests())
    jobs.apply(job(jobs, "thrifty", {"gang": "native"}, replicas=4))
    jobs.wait("thrifty", "Running", PATIENCE)
    made = [it for it in place.account.requests()[before:] if it.is_write and it.resource != "events"]
    measured(f"4 pods of a native gang until Running: {len(made)} writes (at most {4 + WRITES_BESIDE_PODS})")
    assert len(made) <= 4 + WRITES_BESIDE_PODS, [(it.verb, it.resource) for it in made]


@pytest.mark.usefixtures("native")
def test_pod_groups_go_with_their_attempt_and_with_the_job(jobs: Jobs, place: Place) -> None:
    code = f'[ "$ADTS_ATTEMPT" = 1 ] && [ "$RANK" = 0 ] && exit 1; {RUN_ON}'
    jobs.apply(job(jobs, "again", {"gang": "native"}, code))
    wait_for(lambda: jobs.status("again").get("attempt") == 2, PATIENCE, "attempt 2", lambda: jobs.status("again"))
    jobs.wait("again", "Running", PATIENCE)
    wait_for(lambda: groups(jobs, place) == ["again-2"], PATIENCE, "old groups gone", lambda: groups(jobs, place))
    (pod, _) = (it for it in jobs.pods("again") if attempt_of(it) == 2)
    assert pod["spec"]["schedulingGroup"] == {"podGroupName": "again-2"}

    suspend(place, "again", NATIVE)
    jobs.patch("again", {"runPolicy": {"suspend": False}})
    jobs.wait("again", "Running", PATIENCE)
    assert groups(jobs, place) == ["again-3"]
    jobs.delete("again")
    jobs.wait_gone("again")
    wait_for(lambda: groups(jobs, place) == [], PATIENCE, "none after the job", lambda: groups(jobs, place))


@pytest.mark.usefixtures("native")
def test_the_pod_group_of_a_finished_job_is_removed(jobs: Jobs, place: Place) -> None:
    jobs.apply(job(jobs, "done", {"gang": "native"}, "exit 0"))
    jobs.wait("done", "Succeeded", PATIENCE)
    wait_for(lambda: groups(jobs, place) == [], PATIENCE, "group gone", lambda: groups(jobs, place))


def module(name: str) -> Path:
    """The folder of a Go module in the cache."""
    go = shutil.which("go") or pytest.skip("needs Go, which brings the schedulers' CRDs")
    done = subprocess.run([go, "mod", "download", "-json", name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{name} cannot be had: {done.stdout or done.stderr}")
    return Path(json.loads(done.stdout)["Dir"])


@contextmanager
def installed(place: Place, crd: Path) -> Iterator[str]:
    """A scheduler's CRD for a while; the resource that it defines. The operator forgets what it knew of the cluster."""
    name = yaml.safe_load(crd.read_text())["metadata"]["name"]
    if place.cluster.get("crd", name):
        pytest.skip(f"the cluster has a {name} of its own")
    place.cluster.kubectl("apply", "--server-side", "-f", str(crd))
    try:
        place.cluster.kubectl("wait", "crd", name, "--for=condition=Established", "--timeout=30s")
        place.operator.stop()
        place.operator.start()
        yield name
    finally:
        place.cluster.kubectl("delete", "crd", name, "--timeout=60s", timeout=70)


@pytest.fixture
def volcano(place: Place, tmp_path: Path) -> Iterator[str]:
    name, package = VOLCANO_TYPES
    source = module(name)
    command = ["go", "run", CONTROLLER_GEN, "crd", f"paths=./{package}", f"output:crd:dir={tmp_path}"]
    made = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"the CRD of {name} cannot be made: {made.stderr}")
    with installed(place, tmp_path / "scheduling.volcano.sh_podgroups.yaml") as kind:
        yield kind


@pytest.fixture
def coscheduling(place: Place) -> Iterator[str]:
    name, path = COSCHEDULING_CRD
    with installed(place, module(name) / path) as kind:
        yield kind


@pytest.fixture
def kueue(place: Place) -> Iterator[str]:
    name, path = KUEUE_CRD
    with installed(place, module(name) / path) as kind:
        yield kind


def schedule(place: Place, pods: list[dict[str, Any]]) -> None:
    """What a scheduler does in the end: it gives every pod a node."""
    node = json.loads(place.cluster.kubectl("get", "nodes", "-o", "json"))["items"][0]["metadata"]["name"]
    for pod in pods:
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        path = f"/api/v1/namespaces/{place.namespace}/pods/{name}/binding"
        place.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(binding))


@pytest.mark.timeout(300)  # the first time a program is built that makes the CRD
def test_volcano_gets_its_pod_group(jobs: Jobs, place: Place, volcano: str) -> None:
    jobs.apply(job(jobs, "lava", {"gang": "volcano", "queue": "team"}))
    wait_for(lambda: len(jobs.pods("lava")) == 2, PATIENCE, "pods", lambda: jobs.status("lava"))
    (group,) = place.cluster.items(volcano, jobs.namespace)
    assert group["metadata"]["name"] == "lava-1"
    assert group["metadata"]["labels"][LABEL_ATTEMPT] == "1"
    assert (group["spec"]["minMember"], group["spec"]["queue"]) == (2, "team")
    for pod in jobs.pods("lava"):
        assert pod["metadata"]["annotations"][VOLCANO_POD_GROUP] == "lava-1"
        assert pod["spec"]["schedulerName"] == VOLCANO_SCHEDULER
    schedule(place, jobs.pods("lava"))
    jobs.wait("lava", "Running", PATIENCE)
    suspend(place, "lava", volcano)
    jobs.delete("lava")
    assert_all_rights_used(place, "scheduling.volcano.sh")


def test_coscheduling_gets_its_pod_group(jobs: Jobs, place: Place, coscheduling: str) -> None:
    jobs.apply(job(jobs, "tandem", {"gang": "coscheduling"}))
    wait_for(lambda: len(jobs.pods("tandem")) == 2, PATIENCE, "pods", lambda: jobs.status("tandem"))
    (group,) = place.cluster.items(coscheduling, jobs.namespace)
    assert (group["metadata"]["name"], group["spec"]["minMember"]) == ("tandem-1", 2)
    for pod in jobs.pods("tandem"):
        assert pod["metadata"]["labels"][COSCHEDULING_POD_GROUP] == "tandem-1"
        assert pod["spec"]["schedulerName"] == COSCHEDULING_SCHEDULER
    schedule(place, jobs.pods("tandem"))
    jobs.wait("tandem", "Running", PATIENCE)
    suspend(place, "tandem", coscheduling)
    jobs.patch("tandem", {"runPolicy": {"suspend": False}})
    wait_for(lambda: groups(jobs, place, coscheduling) == ["tandem-2"], PATIENCE, "a group of the new attempt")
    jobs.delete("tandem")
    wait_for(lambda: groups(jobs, place, coscheduling) == [], PATIENCE, "no group after the job")
    assert_all_rights_used(place, "scheduling.x-k8s.io")


@contextmanager
def gating(place: Place) -> Iterator[None]:
    """Holds back the pods of queues, as Kueue's webhook does, by a policy of the API server's own."""
    if "mutatingadmissionpolicies" not in place.cluster.kubectl("api-resources", "-o", "name"):
        pytest.skip("the cluster serves no MutatingAdmissionPolicy")
    kinds = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    gate = f'Object{{spec: Object.spec{{schedulingGates: [Object.spec.schedulingGates{{name: "{KUEUE_GATE}"}}]}}}}'
    labelled = f'has(object.metadata.labels) && "{KUEUE_QUEUE}" in object.metadata.labels'
    ours = {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}}
    policy = {
        "matchConstraints": {"resourceRules": [kinds], "namespaceSelector": ours},
        "matchConditions": [{"name": "queued", "expression": labelled}],
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": gate}}],
    }
    name, version = f"gate-{place.namespace}", "admissionregistration.k8s.io/v1"
    things = [
        {"apiVersion": version, "kind": f"MutatingAdmissionPolicy{suffix}", "metadata": {"name": name}, "spec": spec}
        for suffix, spec in (("", policy), ("Binding", {"policyName": name}))
    ]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
    place.cluster.kubectl("apply", "-f", "-", stdin=listed)
    try:
        yield
    finally:
        place.cluster.kubectl("delete", "-f", "-", stdin=listed)


def admit(place: Place, pods: list[dict[str, Any]]) -> None:
    """What Kueue does once there is room: it takes the gates away."""
    patch = json.dumps([{"op": "remove", "path": "/spec/schedulingGates"}])
    for pod in pods:
        place.cluster.kubectl(
            "-n", place.namespace, "patch", "pod", pod["metadata"]["name"], "--type=json", "-p", patch
        )


def evict(place: Place, pod: str) -> None:
    """What Kueue does to make room: it says so in the pod, and deletes it."""
    condition = {"type": "TerminationTarget", "status": "True", "reason": "WorkloadEvictedDueToPreempted"}
    patch = json.dumps({"status": {"conditions": [condition]}})
    place.cluster.kubectl("-n", place.namespace, "patch", "pod", pod, "--subresource=status", "-p", patch)
    place.cluster.kubectl("-n", place.namespace, "delete", "pod", pod, "--wait=false")


@pytest.mark.usefixtures("kueue")
def test_a_queue_holds_all_pods_back(jobs: Jobs, place: Place) -> None:
    jobs.apply(job(jobs, "alone", {"queue": "team"}))
    assert_refused(jobs, "alone", "QueueUnavailable", f"Kueue does not manage the pods of namespace {jobs.namespace}")
    with gating(place):
        wait_for(lambda: is_gated(jobs, place), PATIENCE, "the policy is in force")
        jobs.apply(job(jobs, "queued", {"queue": "team"}, runPolicy={"backoffLimit": 0}))
        jobs.wait("queued", "Queued", PATIENCE)
        assert jobs.condition("queued", "Running")["reason"] == "Queued"
        pods = jobs.pods("queued")
        for pod in pods:
            assert pod["metadata"]["labels"][KUEUE_QUEUE] == "team"
            assert pod["metadata"]["labels"][KUEUE_POD_GROUP] == "queued-1"
            assert pod["metadata"]["annotations"][KUEUE_TOTAL_COUNT] == "2"
        admit(place, pods)
        jobs.wait("queued", "Running", PATIENCE)

        evict(place, "queued-1-1")
        status = jobs.wait("queued", "Queued", PATIENCE)
        assert (status["attempt"], status["failures"]) == (2, 0), "an eviction costs no backoff"
        (restart,) = status["restarts"]
        assert restart["reason"] == "Disrupted"
        admit(place, [pod for pod in jobs.pods("queued") if attempt_of(pod) == 2])
        jobs.wait("queued", "Running", PATIENCE)


def is_gated(jobs: Jobs, place: Place) -> bool:
    """Whether a pod of a queue would be held back; a new policy takes a moment."""
    containers = [{"name": "probe", "image": "none"}]
    metadata = {"name": "probe", "namespace": jobs.namespace, "labels": {KUEUE_QUEUE: "team"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}}
    answer = place.cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod))
    return "schedulingGates" in json.loads(answer)["spec"]
