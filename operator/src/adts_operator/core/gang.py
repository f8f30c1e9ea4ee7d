"""Gangs and queues: the PodGroup of an attempt, what its pods carry for it, and what the cluster must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adts_api.contract import LABEL_ATTEMPT, LABEL_JOB_UID, Reason
from adts_api.schedulers import (
    COSCHEDULING_API,
    COSCHEDULING_POD_GROUP,
    COSCHEDULING_SCHEDULER,
    KUEUE_GATE,
    KUEUE_GROUP,
    KUEUE_POD_GROUP,
    KUEUE_QUEUE,
    KUEUE_RETRIABLE,
    KUEUE_TOTAL_COUNT,
    NATIVE_API,
    VOLCANO_API,
    VOLCANO_POD_GROUP,
    VOLCANO_SCHEDULER,
)
from adts_api.v1alpha1 import DistributedTraining
from adts_operator.core.names import pod_group_name
from adts_operator.core.observed import Refusal

KIND = "PodGroup"
APIS = {"native": NATIVE_API, "volcano": VOLCANO_API, "coscheduling": COSCHEDULING_API}

INSTALL = {
    "native": "use Kubernetes 1.37 or newer and switch its feature gate GenericWorkload on",
    "volcano": "install Volcano",
    "coscheduling": "install the scheduler-plugins with their coscheduling plugin",
}
ELSE = "or set spec.scheduling.gang: none"


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """An API that the cluster must serve for a job."""

    group: str
    version: str
    """Empty where any version will do: we only name the group's labels."""
    resource: str
    refusal: Refusal
    """What to say where the cluster does not serve it."""


def requirements(job: DistributedTraining) -> tuple[Requirement, ...]:
    """What the cluster must serve for the job's gang and queue."""
    scheduling = job.spec.scheduling
    needed: list[Requirement] = []
    if scheduling.gang != "none":
        group, _, version = APIS[scheduling.gang].partition("/")
        problem = f"{scheduling.gang} needs podgroups of {group}/{version}, which this cluster does not serve"
        refusal = _refusal("gang", problem, f"{INSTALL[scheduling.gang]}, {ELSE}")
        needed.append(Requirement(group=group, version=version, resource="podgroups", refusal=refusal))
    if uses_kueue(job):
        problem = f"{scheduling.queue} needs {KUEUE_GROUP}, which this cluster does not serve"
        refusal = _refusal("queue", problem, "install Kueue, or remove it")
        needed.append(Requirement(group=KUEUE_GROUP, version="", resource="localqueues", refusal=refusal))
    return tuple(needed)


def judge_trial(job: DistributedTraining, answer: Mapping[str, Any]) -> Refusal | None:
    """Whether the cluster took a pod of the job for what it is; `answer` is the pod as a dry run gives it back.

    An API server with the feature switched off drops the field without a word, and the pod would be scheduled alone.
    A pod that Kueue does not manage is not gated, and would overtake the queue.
    """
    spec = answer.get("spec") or {}
    if job.spec.scheduling.gang == "native" and not spec.get("schedulingGroup"):
        problem = "native is switched off: the API server drops a pod's spec.schedulingGroup"
        return _refusal("gang", problem, f"{INSTALL['native']}, {ELSE}")
    if uses_kueue(job) and KUEUE_GATE not in [gate.get("name") for gate in spec.get("schedulingGates") or []]:
        problem = f"{job.spec.scheduling.queue}: Kueue does not manage the pods of namespace {job.metadata.namespace}"
        return _refusal("queue", problem, "enable its integration `pod` for the namespace, or remove it")
    return None


def build_pod_group(job: DistributedTraining, attempt: int, metadata: dict[str, Any]) -> dict[str, Any]:
    """The PodGroup of one attempt. `metadata` holds its name, and the labels and the owner that all children share."""
    scheduling, replicas = job.spec.scheduling, job.spec.workers.replicas
    spec: dict[str, Any] = {"minMember": replicas}
    if scheduling.gang == "native":
        spec = {"schedulingPolicy": {"gang": {"minCount": replicas}}}
    if scheduling.gang == "volcano" and scheduling.queue:
        spec["queue"] = scheduling.queue
    if scheduling.gang != "coscheduling" and scheduling.priority_class_name:
        spec["priorityClassName"] = scheduling.priority_class_name
    labels = {**metadata["labels"], LABEL_ATTEMPT: str(attempt)}
    return {
        "apiVersion": APIS[scheduling.gang],
        "kind": KIND,
        "metadata": {**metadata, "labels": labels},
        "spec": spec,
    }


def pod_metadata(job: DistributedTraining, attempt: int) -> dict[str, dict[str, str]]:
    """Labels and annotations by which gang scheduler and queue know the pods of an attempt."""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    scheduling, group = job.spec.scheduling, pod_group_name(job.metadata.name, attempt)
    if scheduling.gang == "volcano":
        annotations[VOLCANO_POD_GROUP] = group
    if scheduling.gang == "coscheduling":
        labels[COSCHEDULING_POD_GROUP] = group
    if uses_kueue(job):
        labels |= {KUEUE_QUEUE: scheduling.queue, KUEUE_POD_GROUP: group}
        annotations |= {KUEUE_TOTAL_COUNT: str(job.spec.workers.replicas), KUEUE_RETRIABLE: "false"}
    return {"labels": labels, "annotations": annotations}


def pod_fields(job: DistributedTraining, attempt: int) -> dict[str, Any]:
    """Fields of a pod's spec that say when and where it is scheduled."""
    scheduling, fields = job.spec.scheduling, dict[str, Any]()
    if scheduling.gang == "native":
        fields["schedulingGroup"] = {"podGroupName": pod_group_name(job.metadata.name, attempt)}
    if scheduling.gang == "volcano":
        fields["schedulerName"] = VOLCANO_SCHEDULER
    if scheduling.gang == "coscheduling":
        fields["schedulerName"] = COSCHEDULING_SCHEDULER
    if scheduling.priority_class_name:
        fields["priorityClassName"] = scheduling.priority_class_name
    if scheduling.topology_key:
        # The scheduler lets the first pod of a group pass that matches its own rule; the others follow it.
        pods = {"matchLabels": {LABEL_JOB_UID: job.metadata.uid, LABEL_ATTEMPT: str(attempt)}}
        term = {"labelSelector": pods, "topologyKey": scheduling.topology_key}
        fields["affinity"] = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return fields


def uses_kueue(job: DistributedTraining) -> bool:
    """Whether Kueue admits the pods. Volcano has queues of its own."""
    return bool(job.spec.scheduling.queue) and job.spec.scheduling.gang != "volcano"


def _refusal(field: str, problem: str, fix: str) -> Refusal:
    reason = Reason.GANG_UNAVAILABLE if field == "gang" else Reason.QUEUE_UNAVAILABLE
    return Refusal(reason=reason, message=f"spec.scheduling.{field}: {problem}; {fix}", is_permanent=True)
