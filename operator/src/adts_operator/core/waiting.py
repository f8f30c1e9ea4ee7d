"""Why the workers of an attempt do not run yet, in the cluster's words and in one of our reasons."""

from __future__ import annotations

from adts_api.contract import ConditionType, Reason
from adts_api.v1alpha1 import DistributedTraining, Status
from adts_operator.core.conditions import find_condition
from adts_operator.core.gang import uses_kueue
from adts_operator.core.observed import GATED, UNSCHEDULABLE, Gang, PodView

IMAGE_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
CONTAINER_REASONS = (
    "CreateContainerConfigError",
    "CreateContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "PostStartHookError",
    "RunContainerError",
)
"""Reasons of a waiting container in the kubelet's words."""

STARTING_UP = ("", "ContainerCreating", "PodInitializing")
"""Reasons of a pending pod that pass by themselves: not worth a status write."""

ASKED_AGAIN = (Reason.QUOTA_EXCEEDED, Reason.ADMISSION_DENIED, Reason.OPERATOR_FORBIDDEN, Reason.GANG_UNAVAILABLE)
"""Refusals that may pass: the pods do not exist until they do."""

_ORDER = (
    Reason.CONTAINER_NOT_CREATED,
    Reason.IMAGE_PULL_FAILED,
    Reason.UNSCHEDULABLE,
    Reason.QUEUED,
    Reason.WORKERS_STARTING,
)
"""What people should know first, where pods wait for different things."""


def why_not_running(job: DistributedTraining, status: Status, gang: Gang) -> tuple[Reason, str]:
    """Reason and message of the condition Running, in words that do not change with every pod that comes up."""
    recorded = find_condition(status.conditions, ConditionType.RUNNING)
    if gang.missing and recorded is not None and recorded.status == "False":
        return Reason(recorded.reason), recorded.message  # why the attempt began, or what keeps it from being made
    waiting = [(_reason(job, pod), pod) for pod in gang.pending if pod.reason not in STARTING_UP]
    if not waiting:
        return Reason.WORKERS_STARTING, f"the {status.workers.desired} workers of attempt {status.attempt} start"
    reason, pod = min(waiting, key=lambda it: _ORDER.index(it[0]))  # min is stable: of equals the lowest index
    return reason, f"{pod.name} waits: {pod.reason}: {pod.message}".rstrip(": ")


def is_queued(job: DistributedTraining, gang: Gang) -> bool:
    """Whether Kueue holds the whole gang back."""
    return uses_kueue(job) and not gang.missing and any(pod.reason == GATED for pod in gang.pending)


def is_held_up(job: DistributedTraining, status: Status) -> bool:
    """Whether the status says that a quota, a queue or a gang scheduler keeps all of the gang waiting.

    It holds no devices meanwhile, so there is no hurry to give any back.
    """
    recorded = find_condition(status.conditions, ConditionType.RUNNING)
    if recorded is None:
        return False
    if recorded.reason == Reason.UNSCHEDULABLE:
        return job.spec.scheduling.gang != "none"
    return recorded.reason in (*ASKED_AGAIN, Reason.QUEUED)


def _reason(job: DistributedTraining, pod: PodView) -> Reason:
    if pod.reason in IMAGE_REASONS:
        return Reason.IMAGE_PULL_FAILED
    if pod.reason in CONTAINER_REASONS:
        return Reason.CONTAINER_NOT_CREATED
    if pod.reason == GATED and uses_kueue(job):
        return Reason.QUEUED
    if pod.reason in (UNSCHEDULABLE, GATED):
        return Reason.UNSCHEDULABLE
    return Reason.WORKERS_STARTING
