"""The life of a job on a real cluster: starts, restarts, ends, and what is left of it.

The jobs are shell scripts, so that pods are real but start in a moment. An observer watches all of them for pods that
must never be.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from adts_api.contract import LABEL_JOB, LABEL_JOB_UID
from adts_operator.cluster.api import Api, collection
from adts_operator.core.times import to_seconds
from cluster.harness.cluster import Cluster
from support.cluster_jobs import PATIENCE, RUN_ON, Jobs, attempt_of, script, wait_for
from support.gang_observer import GangObserver
from support.operator_access import Place, Request, operating

RESTART_SECONDS = 1.0
"""Aim for 8 pods, from a pod that is seen to have failed until the pods of the next attempt exist."""
GPU = "nvidia.com/gpu"
WRITES_BESIDE_PODS = 6
EVENTS_PER_START = 4

Measured = Callable[[str], None]


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with operating(cluster, tmp_path_factory.mktemp("life")) as running:
        with GangObserver(cluster.kubeconfig, running.namespace) as seen:
            yield running
        assert seen.violations() == []


@pytest.fixture
def jobs(place: Place) -> Iterator[Jobs]:
    """The jobs of the namespace; none is left for the next test."""
    yield place.jobs
    place.cluster.kubectl("-n", place.namespace, "delete", "dtrain", "--all", "--wait=false")


def reasons(jobs: Jobs, name: str) -> list[str]:
    """Reasons of a job's events, each once."""
    return list(dict.fromkeys(it["reason"] for it in jobs.events(name)))


def phases(jobs: Jobs, name: str) -> list[str]:
    """Phases of a job's pods."""
    return [pod["status"]["phase"] for pod in jobs.pods(name)]


def job(jobs: Jobs, name: str, code: str, **spec: Any) -> dict[str, Any]:
    """A script with a short grace period: a pod on its way out must not keep the next test waiting."""
    policy = {"gracePeriodSeconds": 5, **spec.pop("runPolicy", {})}
    return script(name, jobs.namespace, code, runPolicy=policy, **spec)


def test_a_job_runs_to_its_end(jobs: Jobs, place: Place) -> None:
    jobs.apply(job(jobs, "good", "sleep 1; echo done"))
    place.cluster.kubectl(
        "-n", jobs.namespace, "wait", "--for=condition=Complete", "dtrain/good", "--timeout=90s", timeout=100
    )
    status = jobs.status("good")
    assert (status["phase"], status["attempt"], status["exitCode"]) == ("Succeeded", 1, 0)
    assert status["workers"]["succeeded"] == status["workers"]["desired"] == 2
    holding = {it["type"] for it in status["conditions"] if it["status"] == "True"}
    assert holding == {"Valid", "Complete"}
    assert all(it["observedGeneration"] == 1 and it["message"] for it in status["conditions"])
    # the job ends with its containers; the kubelet tells of a pod's phase a moment later
    wait_for(lambda: phases(jobs, "good") == ["Succeeded"] * 2, PATIENCE, "both are kept", lambda: phases(jobs, "good"))
    wait_for(lambda: "TrainingFinished" in reasons(jobs, "good"), PATIENCE, "events", lambda: reasons(jobs, "good"))
    assert {"AttemptStarted", "AllWorkersRunning", "TrainingFinished"} <= set(reasons(jobs, "good"))


def test_a_failed_worker_restarts_the_whole_gang(jobs: Jobs) -> None:
    code = f'if [ "$RANK" = 1 ]; then echo "attempt $ADTS_ATTEMPT: the disk is on fire"; exit 3; fi; {RUN_ON}'
    jobs.apply(job(jobs, "bad", code, runPolicy={"backoffLimit": 1}))
    status = jobs.wait("bad", "Failed", PATIENCE)
    (restart,) = status["restarts"]
    assert (restart["scope"], restart["pod"], restart["exitCode"], restart["reason"]) == (
        "attempt",
        "bad-1-1",
        3,
        "Exit3",
    )
    assert restart["node"]
    assert "attempt 1: the disk is on fire" in restart["message"]
    failed = jobs.condition("bad", "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "BackoffLimitExceeded")
    assert "runPolicy.backoffLimit" in failed["message"]
    assert "bad-1-2" in failed["message"]
    assert "attempt 2: the disk is on fire" in failed["message"]
    assert (status["attempt"], status["failures"], status["exitCode"]) == (2, 1, 3)
    wait_for(lambda: phases(jobs, "bad") == ["Failed"], PATIENCE, "the other worker is stopped")
    (pod,) = jobs.pods("bad")
    assert (pod["metadata"]["name"], attempt_of(pod)) == ("bad-1-2", 2)


def test_the_delay_between_attempts_grows(jobs: Jobs, measured: Measured) -> None:
    jobs.apply(job(jobs, "again", "exit 1", replicas=1, runPolicy={"backoffLimit": 2}))
    status = jobs.wait("again", "Failed", 120)
    assert status["attempt"] == 3
    first, second = status["restarts"]
    (pod,) = jobs.pods("again")
    delay = to_seconds(pod["metadata"]["creationTimestamp"], 0.0) - to_seconds(second["time"], 0.0)
    assert delay > 8.9, "10 s, and a creation time in whole seconds"
    measured(f"third attempt {delay:.0f} s after the second failure (asked: 10)")
    assert to_seconds(second["time"], 0.0) - to_seconds(first["time"], 0.0) < 9, "the second attempt began at once"


PERMANENT: dict[str, tuple[dict[str, Any], int, str]] = {
    "not-executable": ({"command": ["/etc/passwd"]}, 126, "CommandNotExecutable"),
    "not-there": ({"command": ["/no/such/program"]}, 127, "CommandNotFound"),
    "shell-says-so": ({"command": ["sh", "-c", "exec no-such-program"]}, 127, "CommandNotFound"),
    "listed": ({"command": ["sh", "-c", "exit 42"], "runPolicy": {"permanentExitCodes": [42]}}, 42, "Exit42"),
}


def test_permanent_exit_codes_end_the_job_at_once(jobs: Jobs) -> None:
    jobs.apply(*(job(jobs, name, "", **{"replicas": 1, **spec}) for name, (spec, _, _) in PERMANENT.items()))
    for name, (_, code, reason) in PERMANENT.items():
        status = jobs.wait(name, "Failed", PATIENCE)
        failed = jobs.condition(name, "Failed")
        assert failed["reason"] == "PermanentFailure", failed
        assert reason in failed["message"]
        assert (status["attempt"], status["exitCode"]) == (1, code)


def test_deadlines_end_a_job(jobs: Jobs) -> None:
    nowhere = {"template": {"spec": {"nodeSelector": {"adts.dev/none": "none"}}}}
    jobs.apply(
        job(jobs, "too-long", RUN_ON, runPolicy={"activeDeadlineSeconds": 4}),
        job(jobs, "too-late", RUN_ON, workers=nowhere, runPolicy={"startDeadlineSeconds": 3, "backoffLimit": 0}),
        job(jobs, "late-once", RUN_ON, workers=nowhere, runPolicy={"startDeadlineSeconds": 3, "backoffLimit": 1}),
    )
    jobs.wait("too-long", "Failed", PATIENCE)
    failed = jobs.condition("too-long", "Failed")
    assert failed["reason"] == "DeadlineExceeded"
    assert "runPolicy.activeDeadlineSeconds: 4" in failed["message"]
    jobs.wait("too-late", "Failed", PATIENCE)
    failed = jobs.condition("too-late", "Failed")
    assert "StartDeadlineExceeded" in failed["message"]
    assert "node" in failed["message"], "the scheduler's own words"
    status = jobs.wait("late-once", "Failed", PATIENCE)
    assert [it["reason"] for it in status["restarts"]] == ["StartDeadlineExceeded"]
    for name in ("too-long", "too-late", "late-once"):
        wait_for(lambda name=name: not jobs.pods(name), PATIENCE, f"pods of {name} gone")  # type: ignore[misc]


def test_a_finished_job_is_removed_after_its_time(jobs: Jobs) -> None:
    jobs.apply(
        job(jobs, "brief", "exit 0", runPolicy={"ttlSecondsAfterFinished": 1}),
        job(jobs, "broken", "exit 42", runPolicy={"ttlSecondsAfterFinished": 0, "permanentExitCodes": [42]}),
    )
    jobs.wait_gone("brief")
    jobs.wait_gone("broken")


def test_clean_pod_policy(jobs: Jobs) -> None:
    code = f'[ "$RANK" = 0 ] && sleep 2 && exit 42; {RUN_ON}'
    for policy in ("None", "Running", "All"):
        run = {"cleanPodPolicy": policy, "permanentExitCodes": [42]}
        jobs.apply(job(jobs, f"clean-{policy.lower()}", code, runPolicy=run))
    wanted = {"clean-running": ["Failed"], "clean-all": [], "clean-none": ["Failed", "Running"]}
    for name, left in wanted.items():
        jobs.wait(name, "Failed", PATIENCE)
        wait_for(lambda n=name, w=left: phases(jobs, n) == w, PATIENCE, name, lambda n=name: phases(jobs, n))  # type: ignore[misc]


def test_suspend_and_resume(jobs: Jobs) -> None:
    jobs.apply(
        job(jobs, "pause", RUN_ON),
        job(jobs, "asleep", RUN_ON, runPolicy={"suspend": True}),
    )
    status = jobs.wait("asleep", "Suspended", PATIENCE)
    assert status.get("attempt", 0) == 0
    assert jobs.condition("asleep", "Suspended")["status"] == "True"
    jobs.wait("pause", "Running", PATIENCE)
    assert not jobs.pods("asleep")

    jobs.patch("pause", {"runPolicy": {"suspend": True}})
    jobs.patch("asleep", {"runPolicy": {"suspend": False}})
    status = jobs.wait("pause", "Suspended", PATIENCE)
    wait_for(lambda: not jobs.pods("pause"), PATIENCE, "no pods while suspended", lambda: phases(jobs, "pause"))
    assert jobs.condition("pause", "Running")["status"] == "False"
    assert jobs.wait("asleep", "Running", PATIENCE)["attempt"] == 1
    assert jobs.condition("asleep", "Suspended")["status"] == "False"

    jobs.patch("pause", {"runPolicy": {"suspend": False}})
    status = jobs.wait("pause", "Running", PATIENCE)
    assert status["attempt"] == 2
    assert status["failures"] == 0, "a suspension is no failure"
    assert {attempt_of(pod) for pod in jobs.pods("pause")} == {2}


def test_a_deleted_pod_is_a_new_attempt_at_once(jobs: Jobs, place: Place, measured: Measured) -> None:
    jobs.apply(job(jobs, "hurt", RUN_ON))
    jobs.wait("hurt", "Running", PATIENCE)
    begin = time.monotonic()
    place.cluster.kubectl("-n", jobs.namespace, "delete", "pod", "hurt-1-1", "--wait=false")
    wait_for(lambda: jobs.status("hurt")["attempt"] == 2, PATIENCE, "attempt 2", lambda: jobs.status("hurt"))
    status = jobs.wait("hurt", "Running", PATIENCE)
    measured(f"job runs again {time.monotonic() - begin:.1f} s after `kubectl delete pod`, 2 pods")
    (restart,) = status["restarts"]
    assert (restart["scope"], restart["pod"]) == ("attempt", "hurt-1-1")
    assert restart["reason"] in ("Lost", "Signal15"), "gone, or ended by SIGTERM before it was gone"
    assert {attempt_of(pod) for pod in jobs.pods("hurt")} >= {2}
    assert {"WorkerLost", "WorkerFailed"} & set(reasons(jobs, "hurt"))


def test_an_evicted_pod_is_a_disruption(jobs: Jobs, place: Place) -> None:
    jobs.apply(job(jobs, "drained", RUN_ON))
    jobs.wait("drained", "Running", PATIENCE)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "drained-0-1"}}
    path = f"/api/v1/namespaces/{jobs.namespace}/pods/drained-0-1/eviction"
    place.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    wait_for(lambda: jobs.status("drained")["attempt"] == 2, PATIENCE, "attempt 2", lambda: jobs.status("drained"))
    (restart,) = jobs.status("drained")["restarts"]
    assert (restart["pod"], restart["reason"]) == ("drained-0-1", "Disrupted")
    jobs.wait("drained", "Running", PATIENCE)
    assert "Preempted" in reasons(jobs, "drained")


@pytest.mark.usefixtures("own_cluster")
def test_a_pod_without_room_waits_in_the_schedulers_words_until_there_is(jobs: Jobs, place: Place) -> None:
    node = json.loads(place.cluster.kubectl("get", "nodes", "-o", "json"))["items"][0]["metadata"]["name"]
    jobs.apply(job(jobs, "big", RUN_ON, replicas=1, workers={"gpusPerWorker": 12}))
    condition = jobs.wait_for_condition("big", "Running", "Unschedulable")
    assert condition["status"] == "False"
    assert f"Insufficient {GPU}" in condition["message"]
    assert "big-0-1" in condition["message"]
    assert jobs.status("big")["phase"] == "Pending"
    assert "Unschedulable" in reasons(jobs, "big")
    try:
        offer_gpus(place, node, 16)
        status = jobs.wait("big", "Running", PATIENCE)
        # a kubelet that has not heard of its new GPUs yet turns the pod away
        assert {it["reason"] for it in status.get("restarts", [])} <= {f"OutOf{GPU}"}
    finally:
        offer_gpus(place, node, 8)


def offer_gpus(place: Place, node: str, count: int) -> None:
    """Lets a node advertise so many GPUs, none of which is there."""
    paths = ("/status/capacity/nvidia.com~1gpu", "/status/allocatable/nvidia.com~1gpu")
    patch = json.dumps([{"op": "add", "path": path, "value": str(count)} for path in paths])
    place.cluster.kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", patch)


def test_an_image_that_cannot_be_pulled_is_named(jobs: Jobs) -> None:
    never = {"containers": [{"name": "trainer", "imagePullPolicy": "Never"}]}
    images = {"no-image": "docker.io/adts/none:1", "no-registry": "127.0.0.1:9/adts/none:1"}
    jobs.apply(
        job(jobs, "no-image", RUN_ON, image=images["no-image"], workers={"template": {"spec": never}}),
        job(jobs, "no-registry", RUN_ON, image=images["no-registry"]),
    )
    for name, image in images.items():
        condition = jobs.wait_for_condition(name, "Running", "ImagePullFailed")
        assert image in condition["message"]
        assert jobs.status(name)["phase"] == "Starting"
        assert "ImagePullFailed" in reasons(jobs, name)


def test_somebody_elses_job_is_left_alone(jobs: Jobs) -> None:
    jobs.apply(job(jobs, "theirs", RUN_ON, runPolicy={"managedBy": "kueue.x-k8s.io/multikueue"}))
    jobs.apply(job(jobs, "ours", RUN_ON, runPolicy={"managedBy": "adts.dev/operator"}))
    jobs.wait("ours", "Running", PATIENCE)
    assert jobs.status("theirs") == {}
    assert jobs.children("theirs") == []


def test_a_deleted_job_leaves_nothing(jobs: Jobs) -> None:
    model = {
        "model": {"type": "mlp", "inputSize": 4, "outputSize": 2},
        "data": {"type": "synthetic"},
        "training": {"steps": 10},
        "workers": {"replicas": 2, "template": {"spec": {"nodeSelector": {"adts.dev/none": "none"}}}},
    }
    waiting = job(jobs, "waits", "")
    waiting["spec"] = model
    jobs.apply(job(jobs, "runs", RUN_ON), waiting)
    jobs.wait("runs", "Running", PATIENCE)
    jobs.wait_for_condition("waits", "Running", "Unschedulable")
    kinds = {it.partition("/")[0].partition(".")[0] for it in jobs.children("waits")}
    assert kinds >= {"pod", "service", "configmap", "secret"}
    wait_for(lambda: any("endpointslice" in it for it in jobs.children("runs")), PATIENCE, "endpoint slices")
    jobs.delete("runs")
    jobs.delete("waits")
    jobs.wait_gone("runs")
    jobs.wait_gone("waits")


def test_a_job_made_again_under_the_same_name_is_not_mixed_with_the_old_one(jobs: Jobs) -> None:
    stubborn = f"trap '' TERM; echo {{}}; {RUN_ON.partition('; ')[2]}; sleep 3600"
    jobs.apply(job(jobs, "twin", stubborn.format("old"), runPolicy={"gracePeriodSeconds": 8}))
    jobs.wait("twin", "Running", PATIENCE)
    old = {pod["metadata"]["uid"] for pod in jobs.pods("twin")}
    jobs.delete("twin")
    jobs.apply(job(jobs, "twin", f"echo new; {RUN_ON}"))
    uid = jobs.get("twin")["metadata"]["uid"]
    assert {pod["metadata"]["uid"] for pod in jobs.pods("twin")} == old, "the old pods end slowly"
    wait_for(lambda: "phase" in jobs.status("twin"), PATIENCE, "the new job was seen")
    assert jobs.status("twin")["workers"]["ready"] == 0
    status = jobs.wait("twin", "Running", PATIENCE)
    assert (status["attempt"], status.get("restarts", [])) == (1, [])
    pods = jobs.pods("twin")
    assert len(pods) == 2
    assert {pod["metadata"]["labels"][LABEL_JOB_UID] for pod in pods} == {uid}
    assert {jobs.output(pod["metadata"]["name"]).strip() for pod in pods} == {"new"}
    assert not old & {pod["metadata"]["uid"] for pod in pods}


def test_a_foreign_service_under_the_jobs_name_is_left_untouched(jobs: Jobs, place: Place) -> None:
    def service() -> dict[str, Any]:
        return dict(json.loads(place.cluster.kubectl("-n", jobs.namespace, "get", "service", "taken", "-o", "json")))

    place.cluster.kubectl("-n", jobs.namespace, "create", "service", "clusterip", "taken", "--tcp=80:80")
    before = service()
    jobs.apply(job(jobs, "taken", RUN_ON))
    condition = jobs.wait_for_condition("taken", "Valid", "NameConflict")
    assert condition["status"] == "False"
    assert "Service/taken" in condition["message"]
    assert jobs.pods("taken") == []
    assert jobs.status("taken")["phase"] == "Pending"
    assert service() == before
    place.cluster.kubectl("-n", jobs.namespace, "delete", "service", "taken")
    assert jobs.wait("taken", "Running", 120)["attempt"] == 1
    assert jobs.condition("taken", "Valid")["status"] == "True"


@pytest.mark.parametrize("replicas", [1, 4])
def test_a_start_costs_few_requests(jobs: Jobs, place: Place, replicas: int, measured: Measured) -> None:
    if place.account.audit_log is None:
        pytest.skip("the audit log of a given cluster is out of reach")
    name = f"thrifty-{replicas}"
    before = len(place.account.requests())
    jobs.apply(job(jobs, name, RUN_ON, replicas=replicas))
    jobs.wait(name, "Running", PATIENCE)
    wait_for(lambda: "AllWorkersRunning" in reasons(jobs, name), PATIENCE, "events")
    made = [it for it in place.account.requests()[before:] if it.is_write]
    events = [it for it in made if it.resource == "events"]
    writes = [it for it in made if it.resource != "events"]
    measured(f"{replicas} pods until Running: {len(writes)} writes, {len(events)} events ({tally(writes)})")
    assert len(writes) <= replicas + WRITES_BESIDE_PODS
    assert len(events) <= EVENTS_PER_START


def tally(requests: list[Request]) -> str:
    """How often each was asked."""
    asked = [f"{it.verb} {it.resource}" for it in requests]
    return ", ".join(f"{asked.count(it)} {it}" for it in dict.fromkeys(asked))


def has_ended(pod: dict[str, Any]) -> bool:
    """Whether the kubelet has told that the container ended."""
    return any("terminated" in it["state"] for it in pod["status"].get("containerStatuses", []))


async def test_a_gang_is_restarted_at_once(jobs: Jobs, place: Place, measured: Measured) -> None:
    replicas = 8
    code = "trap 'exit 143' TERM; until [ -e /tmp/fail ]; do sleep 0.1; done; exit 1"
    await asyncio.to_thread(jobs.apply, job(jobs, "quick", code, replicas=replicas))
    await asyncio.to_thread(jobs.wait, "quick", "Running", 180.0)
    api = await Api.connect(kubeconfig=str(place.cluster.kubeconfig))
    try:
        path, selector = collection("pods", jobs.namespace), f"{LABEL_JOB}=quick"
        version = (await api.get(path, labelSelector=selector))["metadata"]["resourceVersion"]
        hurt = asyncio.create_task(asyncio.to_thread(jobs.execute, "quick-3-1", "touch /tmp/fail"))
        failed_at, new = 0.0, set[str]()
        async with asyncio.timeout(PATIENCE):
            async for event in api.watch(path, version, labelSelector=selector):
                pod = event["object"]
                if event["type"] == "BOOKMARK":
                    continue
                if pod["metadata"]["name"] == "quick-3-1" and has_ended(pod) and not failed_at:
                    failed_at = time.monotonic()
                if attempt_of(pod) == 2:
                    new.add(pod["metadata"]["uid"])
                if len(new) == replicas:
                    break
        seconds = time.monotonic() - failed_at
        await hurt
    finally:
        await api.close()
    measured(
        f"gang of {replicas} made again {seconds:.2f} s after a pod was seen to have failed (aim {RESTART_SECONDS})"
    )
    assert failed_at
    assert seconds < 4 * RESTART_SECONDS
