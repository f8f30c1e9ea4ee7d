"""What is kept of a pod as the API server tells it."""

from __future__ import annotations

from typing import Any

import pytest

from adts_api.contract import LABEL_ATTEMPT, LABEL_INDEX
from adts_api.pod_status import PodStatus
from adts_operator.cluster.pod_views import owner_uid, read_pod

SCHEDULED = {"type": "PodScheduled", "status": "True"}
NO_ROOM = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
}


def pod(state: dict[str, Any] | None = None, *, index: int = 1, labels: Any = None, **status: Any) -> dict[str, Any]:
    if state is not None:
        sidecar = {"name": "sidecar", "state": {"running": {}}}
        status["containerStatuses"] = [sidecar, {"name": "trainer", "state": state}]
    labels = {LABEL_ATTEMPT: "2", LABEL_INDEX: str(index)} if labels is None else labels
    metadata = {"name": f"job-{index}-2", "namespace": "default", "uid": "u", "labels": labels}
    return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": status}


@pytest.mark.parametrize(
    ("given", "phase", "reason", "message"),
    [
        (pod(), "Pending", "", ""),
        (pod(conditions=[NO_ROOM]), "Pending", "Unschedulable", NO_ROOM["message"]),
        (pod({"waiting": {"reason": "ContainerCreating"}}, conditions=[SCHEDULED]), "Pending", "ContainerCreating", ""),
        (
            pod({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, conditions=[SCHEDULED]),
            "Pending",
            "ImagePullBackOff",
            "no such image",
        ),
        (
            pod(
                {"waiting": {"reason": "PodInitializing"}},
                initContainerStatuses=[{"state": {"waiting": {"reason": "ErrImagePull", "message": "init image"}}}],
            ),
            "Pending",
            "ErrImagePull",
            "init image",
        ),
        (pod({"running": {}}, phase="Running"), "Running", "", ""),
        # Completion is the trainer's, whatever the sidecar does.
        (pod({"terminated": {"exitCode": 0, "reason": "Completed"}}, phase="Running"), "Succeeded", "", ""),
        (
            pod({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "1\n2\n"}}, phase="Running"),
            "Failed",
            "OOMKilled",
            "1\n2",
        ),
        # The pod failed before its container was ever told of, or while the kubelet was away.
        (pod(phase="Failed", reason="Evicted", message="low on memory"), "Failed", "Evicted", "low on memory"),
        (pod({"running": {}}, phase="Failed", reason="NodeLost", message="gone"), "Failed", "NodeLost", "gone"),
    ],
)
def test_phase_reason_and_message(given: dict[str, Any], phase: str, reason: str, message: str) -> None:
    view = read_pod(given).view
    assert (view.phase, view.reason, view.message) == (phase, reason, message)
    assert (view.name, view.index, view.attempt, view.node) == ("job-1-2", 1, 2, "n1")


def test_times_disruption_and_exit_code() -> None:
    terminated = {"exitCode": 143, "finishedAt": "2026-11-22T10:00:09Z"}
    given = pod(
        {"terminated": terminated},
        startTime="2026-11-22T10:00:00Z",
        conditions=[{"type": "DisruptionTarget", "status": "True"}],
    )
    given["metadata"]["deletionTimestamp"] = "2026-11-22T10:02:00Z"
    view = read_pod(given).view
    assert view.disrupted
    assert view.exit_code == 143
    assert view.gone_by is not None
    assert view.started_at is not None
    assert view.finished_at is not None
    assert (view.gone_by - view.started_at, view.finished_at - view.started_at) == (120, 9)


@pytest.mark.parametrize(
    ("kind", "status", "disrupted"),
    [
        ("DisruptionTarget", "True", True),
        ("DisruptionTarget", "False", False),
        ("TerminationTarget", "True", True),  # Kueue's word for its own evictions
        ("Ready", "True", False),
    ],
)
def test_a_disrupted_pod_says_so(kind: str, status: str, disrupted: bool) -> None:
    conditions = [{"type": kind, "status": status}]
    assert read_pod(pod({"running": {}}, conditions=conditions)).view.disrupted is disrupted


READY = {"type": "Ready", "status": "True"}
CONTAINERS_READY = {"type": "ContainersReady", "status": "True"}


@pytest.mark.parametrize(
    ("conditions", "is_unreachable"),
    [
        ([], False),
        ([READY, CONTAINERS_READY], False),
        # The node controller changes this one word, and leaves what the kubelet said last.
        ([READY | {"status": "False"}, CONTAINERS_READY], True),
        # The kubelet always says why.
        ([READY | {"status": "False", "reason": "ReadinessGatesNotReady"}, CONTAINERS_READY], False),
        ([READY | {"status": "False", "reason": "ContainersNotReady"}, CONTAINERS_READY | {"status": "False"}], False),
    ],
)
def test_a_pod_is_unreachable_when_the_node_controller_says_so(
    conditions: list[dict[str, str]], is_unreachable: bool
) -> None:
    assert read_pod(pod({"running": {}}, conditions=conditions)).view.unreachable is is_unreachable


def test_the_lead_pod_leaves_its_last_status() -> None:
    status = PodStatus(job_uid="u", attempt=2, state="failed", message="rank 0 raised ValueError", exit_code=3)
    terminated = {"exitCode": 3, "message": status.model_dump_json(by_alias=True)}
    record = read_pod(pod({"terminated": terminated}, index=0))
    assert record.last_status == status
    assert record.view.message == "rank 0 raised ValueError"
    assert read_pod(pod({"terminated": terminated}, index=1)).last_status is None


@pytest.mark.parametrize("labels", [{}, {LABEL_ATTEMPT: "two", LABEL_INDEX: "-1"}])
def test_a_pod_without_our_labels_belongs_to_no_gang(labels: dict[str, str]) -> None:
    view = read_pod(pod(labels=labels)).view
    assert (view.index, view.attempt) == (-1, 0)


def test_only_the_controlling_owner_counts() -> None:
    owners = [{"uid": "a"}, {"uid": "b", "controller": True}]
    assert owner_uid({"metadata": {"ownerReferences": owners}}) == "b"
    assert owner_uid({"metadata": {"ownerReferences": owners[:1]}}) == ""
    assert owner_uid({"metadata": {}}) == ""
