"""What the API server refuses of a job's pods: a quota, Pod Security, limits, a template that is none.

A refusal leaves no half of a gang behind. It is told in the status, in the API server's own words, and the job goes on
once the obstacle is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.harness.cluster import Cluster
from support.cluster_jobs import PATIENCE, RUN_ON, Jobs, script, wait_for
from support.operator_access import SHELL_IMAGE, Place, new_namespace, operating

TEMPLATE = "spec.workers.template"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def restricted(cluster: Cluster) -> Iterator[str]:
    with new_namespace(cluster, "adts-test-restricted", RESTRICTED) as name:
        yield name


@pytest.fixture(scope="module")
def limited(cluster: Cluster) -> Iterator[str]:
    with new_namespace(cluster, "adts-test-limited") as name:
        yield name


@pytest.fixture(scope="module")
def place(cluster: Cluster, restricted: str, limited: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with operating(cluster, tmp_path_factory.mktemp("refusals"), also=(restricted, limited)) as running:
        yield running


@pytest.fixture
def jobs(place: Place) -> Iterator[Jobs]:
    yield place.jobs
    place.cluster.kubectl("-n", place.namespace, "delete", "dtrain,resourcequota", "--all", "--wait=false")


def job(namespace: str, name: str, *, template: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    workers = {**spec.pop("workers", {}), "template": template or {}}
    return script(name, namespace, RUN_ON, workers=workers, runPolicy={"gracePeriodSeconds": 5}, **spec)


def trainer(**fields: Any) -> dict[str, Any]:
    """A template that changes the generated container."""
    return {"spec": {"containers": [{"name": "trainer", **fields}]}}


def apply(place: Place, namespace: str, kind: str, name: str, spec: dict[str, Any], version: str = "v1") -> None:
    thing = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}
    place.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(thing))


def quota(place: Place, gpus: int) -> None:
    """Sets the quota, and waits until it counts."""
    spec = {"hard": {"requests.nvidia.com/gpu": str(gpus)}}
    apply(place, place.namespace, "ResourceQuota", "gpus", spec)
    wait_for(lambda: quota_status(place).get("hard") == spec["hard"], PATIENCE, "quota", lambda: quota_status(place))


def quota_status(place: Place) -> dict[str, Any]:
    return dict((place.cluster.get("resourcequota", "gpus", place.namespace) or {}).get("status", {}))


def used_gpus(place: Place) -> str:
    """What the quota counts as taken."""
    return str(quota_status(place)["used"]["requests.nvidia.com/gpu"])


@pytest.mark.usefixtures("own_cluster")  # whose nodes offer GPUs
def test_a_quota_that_ends_half_way_through_a_gang_leaves_nothing_behind(jobs: Jobs, place: Place) -> None:
    quota(place, 3)
    jobs.apply(job(jobs.namespace, "greedy", replicas=4, workers={"gpusPerWorker": 1}))
    condition = jobs.wait_for_condition("greedy", "Running", "QuotaExceeded")
    assert "exceeded quota: gpus" in condition["message"]
    wait_for(lambda: not jobs.pods("greedy"), PATIENCE, "no pod is left", lambda: jobs.pods("greedy"))
    wait_for(lambda: used_gpus(place) == "0", PATIENCE, "no GPU is held", lambda: used_gpus(place))
    status = jobs.status("greedy")
    assert (status["phase"], status["failures"], status.get("restarts", [])) == ("Pending", 0, [])
    assert [it["reason"] for it in jobs.events("greedy")].count("QuotaExceeded") == 1

    jobs.apply(job(jobs.namespace, "modest", replicas=3, workers={"gpusPerWorker": 1}))
    jobs.wait("modest", "Running", PATIENCE)
    jobs.delete("modest")

    quota(place, 8)
    status = jobs.wait("greedy", "Running", 180)
    assert len(jobs.pods("greedy")) == 4
    assert status["failures"] == 0


@pytest.mark.usefixtures("own_cluster")  # whose nodes offer GPUs
def test_a_quota_without_any_room_makes_no_pod(jobs: Jobs, place: Place) -> None:
    quota(place, 0)
    jobs.apply(job(jobs.namespace, "hopeless", workers={"gpusPerWorker": 1}))
    jobs.wait_for_condition("hopeless", "Running", "QuotaExceeded")
    assert jobs.pods("hopeless") == []
    assert jobs.status("hopeless").get("attempt", 0) == 0, "the trial found out"
    place.cluster.kubectl("-n", jobs.namespace, "delete", "resourcequota", "gpus")
    assert jobs.wait("hopeless", "Running", PATIENCE)["attempt"] == 1


def test_a_pod_that_pod_security_forbids_is_an_invalid_spec(place: Place, restricted: str) -> None:
    jobs = Jobs(place.cluster.kubectl, restricted)
    jobs.apply(job(restricted, "own-image", image=SHELL_IMAGE), job(restricted, "our-image"))
    condition = jobs.wait_for_condition("own-image", "Valid", "PodRefused")
    assert condition["status"] == "False"
    assert 'violates PodSecurity "restricted:latest"' in condition["message"]
    assert "runAsNonRoot != true" in condition["message"]
    assert jobs.pods("own-image") == []
    assert jobs.status("own-image")["phase"] == "Pending"
    jobs.wait("our-image", "Running", PATIENCE)

    safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    safe |= {"runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    jobs.patch("own-image", {"workers": {"template": trainer(securityContext=safe)}})
    jobs.wait("own-image", "Running", PATIENCE)
    assert jobs.condition("own-image", "Valid")["status"] == "True"
    jobs.delete("own-image")
    jobs.delete("our-image")


TRAINER = f"{TEMPLATE}.spec.containers[trainer]"
BAD_TEMPLATES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "quantity": (trainer(resources={"requests": {"cpu": "much"}}), ["quantities must match"]),
    "negative-limit": (trainer(resources={"limits": {"memory": "-1Gi"}}), [f"{TRAINER}.resources.limits[memory]"]),
    "request-above-limit": (
        trainer(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
        [f"{TRAINER}.resources.requests", "must be less than or equal to cpu limit"],
    ),
    "mount-of-nothing": (
        trainer(volumeMounts=[{"name": "none", "mountPath": "/none"}]),
        [f"{TRAINER}.volumeMounts[", "Not found"],
    ),
    "pull-policy": (trainer(imagePullPolicy="Sometimes"), [f"{TRAINER}.imagePullPolicy", "Unsupported value"]),
    "unknown-field": (trainer(imagePulPolicy="Never"), [f"{TRAINER}.imagePulPolicy", "unknown field"]),
    "unknown-field-of-the-pod": ({"spec": {"nodeSelektor": {"a": "b"}}}, [f"{TEMPLATE}.spec.nodeSelektor"]),
    "wrong-type": ({"spec": {"nodeSelector": "fast"}}, ["nodeSelector"]),
    "label": ({"metadata": {"labels": {"team": "not a label"}}}, [f"{TEMPLATE}.metadata.labels", "not a label"]),
    "sidecar-without-image": (
        {"spec": {"containers": [{"name": "sidecar"}]}},
        [f"{TEMPLATE}.spec.containers[sidecar].image", "Required value"],
    ),
}


def test_a_template_that_makes_no_pod_is_told_by_its_path(jobs: Jobs) -> None:
    jobs.apply(*(job(jobs.namespace, name, template=template) for name, (template, _) in BAD_TEMPLATES.items()))
    told = {}
    for name in BAD_TEMPLATES:
        wait_for(lambda name=name: jobs.condition(name, "Valid"), PATIENCE, name)  # type: ignore[misc]
        told[name] = jobs.condition(name, "Valid")
    silent = {
        name: told[name]
        for name, (_, words) in BAD_TEMPLATES.items()
        if told[name]["status"] != "False" or not all(word in told[name]["message"] for word in words)
    }
    assert silent == {}
    for name in BAD_TEMPLATES:
        assert jobs.pods(name) == []
        assert jobs.status(name)["phase"] == "Pending"
    jobs.patch("quantity", {"workers": {"template": trainer(resources={"requests": {"cpu": "10m"}})}})
    jobs.wait("quantity", "Running", PATIENCE)


def test_what_is_lacking_of_the_cluster_is_waited_for(jobs: Jobs, place: Place) -> None:
    """A priority class may be made any time, so it is asked for again."""
    name = f"urgent-{jobs.namespace}"
    jobs.apply(job(jobs.namespace, "hurry", scheduling={"priorityClassName": name}))
    condition = jobs.wait_for_condition("hurry", "Running", "AdmissionDenied")
    assert name in condition["message"]
    assert jobs.pods("hurry") == []
    thing = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 5}
    place.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(thing))
    try:
        jobs.wait("hurry", "Running", PATIENCE)
        assert jobs.pods("hurry")[0]["spec"]["priority"] == 5
    finally:
        place.cluster.kubectl("delete", "priorityclass", name)


def test_limits_of_the_namespace_are_told_and_filled_in(place: Place, limited: str) -> None:
    limit = {"type": "Container", "max": {"cpu": "500m"}, "default": {"cpu": "100m"}, "defaultRequest": {"cpu": "10m"}}
    apply(place, limited, "LimitRange", "small", {"limits": [limit]})
    jobs = Jobs(place.cluster.kubectl, limited)
    too_much = trainer(resources={"limits": {"cpu": "2"}, "requests": {"cpu": "10m"}})
    jobs.apply(job(limited, "large", template=too_much), job(limited, "small"))
    condition = jobs.wait_for_condition("large", "Valid", "PodRefused")
    assert condition["status"] == "False"
    assert "maximum cpu usage per Container is 500m" in condition["message"]
    jobs.wait("small", "Running", PATIENCE)
    (container,) = jobs.pods("small")[0]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "100m"}
    assert jobs.pods("large") == []
    jobs.delete("small")
    jobs.delete("large")
