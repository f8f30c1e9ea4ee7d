"""Gangs and queues: what the cluster must have, and when a PodGroup comes and goes. Their objects are golden files."""

from __future__ import annotations

from typing import Any

import pytest

from adts_api.contract import Reason
from adts_operator.core.gang import judge_trial, requirements
from adts_operator.core.observed import Observed, Refusal
from adts_operator.core.plan import plan
from support.operator_jobs import NOW, begun, make_job, make_pod, running, settle
from support.operator_rows import BOTH, suspend_of

GROUP = "PodGroup/demo-1"
CHILDREN = frozenset({"Service/demo", "ConfigMap/demo-1", GROUP})
NEEDS = {
    "nothing": ({}, []),
    "a place": ({"topologyKey": "rack", "priorityClassName": "high"}, []),
    "native": ({"gang": "native"}, [("scheduling.k8s.io", "v1beta1", "podgroups")]),
    "volcano": ({"gang": "volcano"}, [("scheduling.volcano.sh", "v1beta1", "podgroups")]),
    "a queue of Volcano's": (
        {"gang": "volcano", "queue": "team"}, [("scheduling.volcano.sh", "v1beta1", "podgroups")],
    ),
    "coscheduling": ({"gang": "coscheduling"}, [("scheduling.x-k8s.io", "v1alpha1", "podgroups")]),
    "Kueue": ({"queue": "team"}, [("kueue.x-k8s.io", "", "localqueues")]),
    "both": (
        {"gang": "native", "queue": "team"},
        [("scheduling.k8s.io", "v1beta1", "podgroups"), ("kueue.x-k8s.io", "", "localqueues")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("scheduling", "apis"), NEEDS.values(), ids=NEEDS)
def test_what_the_cluster_must_serve(scheduling: dict[str, str], apis: list[tuple[str, str, str]]) -> None:
    needed = requirements(make_job(scheduling=scheduling))
    assert [(it.group, it.version, it.resource) for it in needed] == apis
    assert all(it.refusal.is_permanent and it.refusal.message.startswith("spec.scheduling.") for it in needed)


def test_a_cluster_without_it_is_told_with_the_fix() -> None:
    [gang, queue] = requirements(make_job(scheduling={"gang": "coscheduling", "queue": "team"}))
    assert (gang.refusal.reason, gang.refusal.message) == (
        Reason.GANG_UNAVAILABLE,
        "spec.scheduling.gang: coscheduling needs podgroups of scheduling.x-k8s.io/v1alpha1, which this cluster does "
        "not serve; install the scheduler-plugins with their coscheduling plugin, or set spec.scheduling.gang: none",
    )
    assert (queue.refusal.reason, queue.refusal.message) == (
        Reason.QUEUE_UNAVAILABLE,
        "spec.scheduling.queue: team needs kueue.x-k8s.io, which this cluster does not serve; install Kueue, or "
        "remove it",
    )


GATES = [{"name": "kueue.x-k8s.io/admission"}]
TRIALS: dict[str, tuple[dict[str, str], dict[str, Any], Reason | None]] = {
    "no gang": ({}, {}, None),
    "the field is kept": ({"gang": "native"}, {"schedulingGroup": {"podGroupName": "demo-1"}}, None),
    "the field is dropped": ({"gang": "native"}, {}, Reason.GANG_UNAVAILABLE),
    "another scheduler's gang has no field": ({"gang": "volcano", "queue": "team"}, {}, None),
    "gated": ({"queue": "team"}, {"schedulingGates": GATES}, None),
    "not gated": ({"queue": "team"}, {"schedulingGates": [{"name": "mine"}]}, Reason.QUEUE_UNAVAILABLE),
}


@pytest.mark.parametrize(("scheduling", "spec", "reason"), TRIALS.values(), ids=TRIALS)
def test_the_answer_to_the_trial_tells_what_is_switched_off(
    scheduling: dict[str, str], spec: dict[str, Any], reason: Reason | None
) -> None:
    refusal = judge_trial(make_job(scheduling=scheduling), {"spec": spec})
    assert (refusal.reason if refusal else None) == reason


def test_a_pod_group_is_made_before_the_pods_once_for_each_attempt() -> None:
    job = begun(scheduling={"gang": "native"})
    kinds = [it["kind"] for it in plan(job, Observed(), NOW).apply]
    assert kinds == ["Service", "ConfigMap", "PodGroup", "Secret", "Pod", "Pod"]
    again = plan(job, Observed(children=CHILDREN, pods=(make_pod(0),)), NOW)
    assert [it["kind"] for it in again.apply] == ["Secret", "Pod"]
    assert plan(job, Observed(children=CHILDREN, pods=BOTH), NOW).apply == ()


@pytest.mark.parametrize(
    ("gang", "path"),
    [
        ("native", "/apis/scheduling.k8s.io/v1beta1"),
        ("volcano", "/apis/scheduling.volcano.sh/v1beta1"),
        ("coscheduling", "/apis/scheduling.x-k8s.io/v1alpha1"),
    ],
)
def test_a_pod_group_goes_with_its_attempt(gang: str, path: str) -> None:
    seen = Observed(pods=(make_pod(0), make_pod(1, "Failed")), children=CHILDREN)
    step = plan(settle(running(scheduling={"gang": gang}), seen), seen, NOW)
    assert [(it.kind, it.name, it.group) for it in step.delete if it.kind != "Pod"] == [
        ("ConfigMap", "demo-1", ""),
        ("PodGroup", "demo-1", path),
    ]


ENDS = {
    "finished": (running(scheduling={"gang": "native"}), (make_pod(0, "Succeeded"), make_pod(1, "Succeeded")), True),
    "suspended, its pods still save": (suspend_of(running(scheduling={"gang": "native"})), BOTH, False),
    "suspended": (suspend_of(running(scheduling={"gang": "native"})), (), True),
    "running": (running(scheduling={"gang": "native"}), BOTH, False),
}


@pytest.mark.parametrize(("job", "pods", "goes"), ENDS.values(), ids=ENDS)
def test_a_pod_group_goes_when_it_would_only_hold_a_place(job: Any, pods: Any, goes: bool) -> None:
    seen = Observed(pods=pods, children=CHILDREN)
    groups = [it.name for it in plan(settle(job, seen), seen, NOW).delete if it.kind == "PodGroup"]
    assert groups == (["demo-1"] if goes else [])
    without = Observed(pods=pods, children=CHILDREN - {GROUP})
    assert not [it for it in plan(settle(job, seen), without, NOW).delete if it.kind == "PodGroup"]


def test_half_a_gang_gives_its_group_back_too() -> None:
    refusal = Refusal(reason=Reason.QUOTA_EXCEEDED, message="exceeded quota", is_permanent=False)
    seen = Observed(pods=(make_pod(0, "Pending"),), children=CHILDREN, refusal=refusal)
    step = plan(settle(begun(scheduling={"gang": "native"}), seen), seen, NOW)
    assert {it.name for it in step.delete} == {"demo-0-1", "demo-1"}
    assert {it.kind for it in step.delete} == {"Pod", "ConfigMap", "PodGroup"}
