"""What the cluster refuses: the trial before the first attempt, waiting, and never half a gang."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adts_api.contract import ConditionType, Reason
from adts_api.v1alpha1 import DistributedTraining
from adts_operator.core.conditions import find_condition
from adts_operator.core.observed import Observed, PodView, Refusal
from adts_operator.core.plan import plan
from support.operator_jobs import NOW, after, begun, make_job, make_lead, make_pod, running, settle
from support.operator_rows import BOTH, CHILDREN, Row, resume_of, suspend_of

QUOTA = Refusal(reason=Reason.QUOTA_EXCEEDED, message="exceeded quota: gpus", is_permanent=False)
SECURITY = Refusal(reason=Reason.POD_REFUSED, message="violates PodSecurity", is_permanent=True)
INVALID = Refusal(reason=Reason.INVALID_SPEC, message="spec.parallelism.tensor: 3 does not divide", is_permanent=True)
HALF = (make_pod(0, "Pending"),)


def held(refusal: Refusal = QUOTA, **fields: object) -> DistributedTraining:
    """A job whose half made gang was let go."""
    return settle(begun(**fields), Observed(pods=HALF, refusal=refusal), NOW - 50.0)


ROWS = [
    Row("refused for good before the first attempt", make_job(), Observed(refusal=SECURITY), "Pending",
        events=["PodRefused"], attempt=0),
    Row("a spec that has no layout", make_job(parallelism={"tensor": 3}), Observed(refusal=INVALID), "Pending",
        events=["InvalidSpec"], attempt=0),
    Row("no room for the first pod yet", make_job(), Observed(refusal=QUOTA), "Pending",
        events=["QuotaExceeded"], attempt=0),
    Row("what is known is not told again", settle(make_job(), Observed(refusal=QUOTA)), Observed(refusal=QUOTA),
        "Pending", attempt=0),
    Row("room at last", settle(make_job(), Observed(refusal=QUOTA)), Observed(), "Pending", events=["AttemptStarted"]),
    Row("the first pod of an attempt is refused", begun(), Observed(refusal=QUOTA, children=CHILDREN), "Pending",
        events=["QuotaExceeded"]),
    Row("half of a gang is refused: its attempt is over, under no blame", begun(),
        Observed(pods=HALF, refusal=QUOTA, children=CHILDREN), "Pending", events=["QuotaExceeded"], attempt=2),
    Row("and what was made of it goes", held(), Observed(pods=HALF, refusal=QUOTA, children=CHILDREN), "Pending",
        delete=["demo-0-1 3", "demo-1 0"], attempt=2),
    Row("half of a gang is refused for good", begun(), Observed(pods=HALF, refusal=SECURITY, children=CHILDREN),
        "Pending", events=["PodRefused"], attempt=2),
    Row("a gang that is all there has nothing to do with it", running(),
        Observed(pods=BOTH, lead=make_lead(), refusal=QUOTA), "Running"),
    Row("nor has it where the spec became invalid, but people should know", running(),
        Observed(pods=BOTH, lead=make_lead(), refusal=INVALID), "Running", events=["InvalidSpec"]),
    Row("a failure under a refused spec is a failure", running(),
        Observed(pods=(make_pod(0), make_pod(1, "Failed")), refusal=SECURITY), "Restarting",
        events=["WorkerFailed"], attempt=2),
    Row("but nothing is made after it", settle(running(), Observed(pods=(make_pod(0), make_pod(1, "Failed")))),
        Observed(refusal=SECURITY, children=CHILDREN), "Restarting", delete=["demo-1 0"], events=["PodRefused"],
        attempt=2),
    Row("a job that waits may be suspended", suspend_of(held()), Observed(refusal=QUOTA), "Suspended",
        events=["SuspendedByUser"], attempt=2),
    Row("a finished job does not care", running(), Observed(pods=(make_pod(0, "Succeeded"), make_pod(1, "Succeeded")),
        refusal=SECURITY), "Succeeded", events=["TrainingFinished"]),
    Row("somebody else's object does not keep a job from ending", running(),
        Observed(pods=(make_pod(0, "Succeeded"), make_pod(1, "Succeeded")), foreign=("Service/demo",)), "Succeeded",
        events=["TrainingFinished"]),
    Row("a resumed job waits for room", resume_of(settle(suspend_of(running()), Observed())),
        Observed(refusal=QUOTA), "Pending", events=["QuotaExceeded"]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_plan(row: Row) -> None:
    row.check()


def test_the_first_pod_is_tried_before_the_first_attempt_and_after_a_suspension() -> None:
    [pod] = plan(make_job(), Observed(), NOW).trial
    assert pod["metadata"]["name"] == "demo-0-1"
    resumed = resume_of(settle(suspend_of(running()), Observed()))
    [pod] = plan(resumed, Observed(), NOW).trial
    assert pod["metadata"]["name"] == "demo-0-2"
    for job in (begun(), running(), settle(make_job(), Observed(refusal=QUOTA))):
        assert plan(job, Observed(pods=BOTH, refusal=QUOTA), NOW).trial == ()


@pytest.mark.parametrize(
    ("refusal", "condition", "reason"),
    [(SECURITY, ConditionType.VALID, "PodRefused"), (QUOTA, ConditionType.RUNNING, "QuotaExceeded")],
)
def test_the_condition_says_why_in_the_clusters_words(refusal: Refusal, condition: ConditionType, reason: str) -> None:
    for job in (make_job(), begun()):
        found = find_condition(settle(job, Observed(refusal=refusal)).status.conditions, condition)
        assert found is not None
        assert (found.status, found.reason, found.message) == ("False", reason, refusal.message)


def test_the_reason_stands_until_the_whole_gang_is_made() -> None:
    """Asking again must not write it away and back each time."""
    job = held()
    again = plan(job, Observed(), NOW)
    assert [it["metadata"]["name"] for it in again.apply if it["kind"] == "Pod"] == ["demo-0-2", "demo-1-2"]
    assert again.status is None
    pods = tuple(make_pod(index, "Pending", attempt=2) for index in (0, 1))
    job = settle(job, Observed(pods=pods))
    running_condition = find_condition(job.status.conditions, ConditionType.RUNNING)
    assert running_condition is not None
    assert (job.status.phase, running_condition.reason) == ("Starting", "WorkersStarting")


def test_a_refused_spec_is_valid_again_once_the_gang_is_made() -> None:
    job = settle(begun(), Observed(refusal=SECURITY))
    assert plan(job, Observed(), NOW).status is None, "asked again, not yet answered"
    job = settle(job, Observed(pods=BOTH))
    valid = find_condition(job.status.conditions, ConditionType.VALID)
    assert valid is not None
    assert valid.status == "True"


def test_waiting_for_the_cluster_is_no_failure_and_has_no_deadline() -> None:
    job = held(run_policy={"backoffLimit": 0})
    step = plan(job, Observed(refusal=QUOTA), NOW + 100_000.0)
    assert step.status is None
    assert job.status.failures == 0
    assert plan(job, Observed(), NOW + 100_000.0).apply, "it asks again, however late"


def test_the_time_to_start_begins_when_the_gang_is_made() -> None:
    late = NOW + 100_000.0
    waiting = (make_pod(0, attempt=2), make_pod(1, "Pending", attempt=2))
    job = settle(held(), Observed(pods=waiting), late)
    assert plan(job, Observed(pods=waiting), late + 500.0).status is None
    job = after(job, plan(job, Observed(pods=waiting), late + 601.0))
    assert (job.status.phase, job.status.failures) == ("Restarting", 1)


def test_a_deadline_that_is_set_counts_the_waiting_too() -> None:
    job = held(run_policy={"startDeadlineSeconds": 100})
    step = plan(job, Observed(refusal=QUOTA), NOW + 45.0)
    [restart] = after(job, step).status.restarts
    assert (restart.reason, restart.message) == (
        "StartDeadlineExceeded",
        "demo-0-2: StartDeadlineExceeded\nexceeded quota: gpus",
    )


def test_a_message_that_changes_costs_no_event() -> None:
    job = settle(make_job(), Observed(refusal=QUOTA))
    step = plan(job, Observed(refusal=replace(QUOTA, message="exceeded quota: used: 7")), NOW + 60.0)
    assert step.status is not None
    assert step.events == ()


def test_adopted_pods_are_not_completed() -> None:
    """Found by the state machine: after a lost status nobody knows whether the missing pod was ever made."""
    pods: tuple[PodView, ...] = (make_pod(0, attempt=3),)
    job = after(make_job(), step := plan(make_job(), Observed(pods=pods), NOW))
    assert step.apply == ()
    assert (job.status.attempt, job.status.phase) == (4, "Restarting")
