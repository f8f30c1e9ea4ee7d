"""A pod as the API server tells it -> the little of it that is kept. Pure; completion is read from the container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adts_api.contract import CONTAINER, LABEL_ATTEMPT, LABEL_INDEX, ExitCode
from adts_api.pod_status import PodStatus
from adts_operator.cluster.last_words import TAIL_BYTES, last_words, parse_termination
from adts_operator.core.observed import PodView, TrainerPhase
from adts_operator.core.times import to_seconds

NOT_STARTED = ("StartError", "ContainerCannotRun")
"""The runtime's reasons for a command that it could not start."""
DISRUPTIONS = ("DisruptionTarget", "TerminationTarget")
"""Conditions of a pod that the cluster, or Kueue, takes away."""
UNKNOWN_INDEX = -1
"""Of a pod whose labels somebody changed: it is in no gang, so it is deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRecord:
    """What the informer keeps of a pod: a tenth of its memory."""

    view: PodView
    ip: str = ""
    last_status: PodStatus | None = None
    """What the launcher of the lead pod left when it ended."""


def read_pod(pod: Mapping[str, Any]) -> PodRecord:
    """The record of one pod of ours."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    conditions = {it["type"]: it for it in status.get("conditions") or []}
    state = _trainer_state(status)
    terminated = state.get("terminated") or {}
    phase = _phase(status, state)
    reason, message = _why(status, state, conditions, phase)
    index = _number(metadata, LABEL_INDEX)
    left = parse_termination(terminated.get("message", "")) if terminated else None
    if phase == "Failed" and terminated:
        message = last_words(left, terminated.get("message", "").encode()) or message
    view = PodView(
        name=metadata["name"],
        index=index,
        attempt=max(0, _number(metadata, LABEL_ATTEMPT)),
        phase=phase,
        exit_code=_exit_code(terminated),
        reason=reason,
        message=message[-TAIL_BYTES:],
        node=(pod.get("spec") or {}).get("nodeName", ""),
        gone_by=_seconds(metadata.get("deletionTimestamp")),
        disrupted=any(conditions.get(it, {}).get("status") == "True" for it in DISRUPTIONS),
        unreachable=_is_unreachable(conditions),
        started_at=_seconds(status.get("startTime")),
        finished_at=_seconds(terminated.get("finishedAt")),
    )
    return PodRecord(view=view, ip=status.get("podIP", ""), last_status=left if index == 0 else None)


def owner_uid(thing: Mapping[str, Any]) -> str:
    """UID of the controlling owner of an object; empty where it has none."""
    owners = thing["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def _trainer_state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    for container in status.get("containerStatuses") or []:
        if container["name"] == CONTAINER:
            state: Mapping[str, Any] = container.get("state") or {}
            return state
    return {}


def _exit_code(terminated: Mapping[str, Any]) -> int | None:
    """Of the trainer once it ended. A command that cannot be started has a code of its own in every shell."""
    code: int | None = terminated.get("exitCode")
    if terminated.get("reason") in NOT_STARTED:
        message = terminated.get("message", "")
        if "permission denied" in message:
            return ExitCode.COMMAND_NOT_EXECUTABLE
        if "executable file not found" in message or "no such file or directory" in message:
            return ExitCode.COMMAND_NOT_FOUND
    return code


def _phase(status: Mapping[str, Any], state: Mapping[str, Any]) -> TrainerPhase:
    """Of the trainer. Where the kubelet has not told of it, the pod's own: evicted, or never started."""
    if "terminated" in state:
        return "Failed" if state["terminated"].get("exitCode", 1) else "Succeeded"
    if status.get("phase") in ("Failed", "Succeeded"):
        return "Failed" if status["phase"] == "Failed" else "Succeeded"
    return "Running" if "running" in state else "Pending"


def _why(
    status: Mapping[str, Any], state: Mapping[str, Any], conditions: Mapping[str, Any], phase: TrainerPhase
) -> tuple[str, str]:
    """Reason and message of a pod that waits or has ended, in the cluster's words."""
    if phase == "Failed":
        terminated = state.get("terminated") or {}
        reason = status.get("reason") or terminated.get("reason") or ""
        return reason, status.get("message") or ""
    if phase != "Pending":
        return "", ""
    for told in (state.get("waiting"), *_waiting_init(status)):
        if told and told.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return told["reason"], told.get("message", "")
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return scheduled.get("reason", ""), scheduled.get("message", "")
    return (state.get("waiting") or {}).get("reason", ""), ""


def _is_unreachable(conditions: Mapping[str, Any]) -> bool:
    """Whether the node controller has marked it. It changes Ready alone, to False, and gives no reason; a kubelet
    gives one, and says the same of ContainersReady unless a readiness gate is closed.
    """
    ready, containers = conditions.get("Ready", {}), conditions.get("ContainersReady", {})
    return ready.get("status") == "False" and not ready.get("reason") and containers.get("status") == "True"


def _waiting_init(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [(it.get("state") or {}).get("waiting") or {} for it in status.get("initContainerStatuses") or []]


def _number(metadata: Mapping[str, Any], label: str) -> int:
    text = (metadata.get("labels") or {}).get(label, "")
    return int(text) if text.isdecimal() else UNKNOWN_INDEX


def _seconds(text: str | None) -> float | None:
    return to_seconds(text, 0.0) if text else None
