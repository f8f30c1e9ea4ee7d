"""What a plan writes into the status besides the phase: restarts, conditions, rounds, progress."""

from __future__ import annotations

from adts_api.contract import ConditionType
from adts_operator.core.conditions import find_condition, holds
from adts_operator.core.observed import Observed
from adts_operator.core.plan import plan
from support.operator_jobs import NOW, after, begun, make_job, make_lead, make_pod, running, settle

BOTH = (make_pod(0), make_pod(1))
CHILDREN = frozenset({"Service/demo", "ConfigMap/demo-1"})


def test_a_new_attempt_replaces_the_old_pods() -> None:
    seen = Observed(pods=(make_pod(0), make_pod(1, "Failed")), children=CHILDREN)
    job = after(running(), plan(running(), seen, NOW))
    step = plan(job, seen, NOW)
    assert [it["metadata"]["name"] for it in step.apply] == ["demo-2", "demo-0d5e2c7a", "demo-0-2", "demo-1-2"]
    assert [(it.kind, it.name) for it in step.delete] == [
        ("Pod", "demo-0-1"),
        ("Pod", "demo-1-1"),
        ("ConfigMap", "demo-1"),
    ]


def test_the_restart_says_which_pod_on_which_node_and_its_last_words() -> None:
    seen = Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=137, message="step 40\nKilled")))
    [restart] = after(running(), plan(running(), seen, NOW)).status.restarts
    assert (restart.scope, restart.pod, restart.node, restart.exit_code, restart.reason) == (
        "attempt",
        "demo-1-1",
        "node-1",
        137,
        "Signal9",
    )
    assert restart.message == "demo-1-1 on node-1 exited with code 137 (Signal9)\nstep 40\nKilled"


def test_a_failed_job_says_why_and_with_which_code() -> None:
    seen = Observed(pods=(make_pod(0, "Failed", exit_code=64), make_pod(1, "Failed", exit_code=4, message="no data")))
    status = after(running(), plan(running(), seen, NOW)).status
    failed = find_condition(status.conditions, ConditionType.FAILED)
    assert failed is not None
    assert failed.message == "demo-1-1 on node-1 exited with code 4 (BadData)\nno data"
    assert (failed.reason, status.exit_code) == ("PermanentFailure", 4)
    assert status.finished_at == "2027-01-15T08:00:00.000Z"
    assert not holds(status, ConditionType.COMPLETE)


def test_success_counts_every_step_whatever_was_heard_last() -> None:
    done = Observed(pods=(make_pod(0, "Succeeded"), make_pod(1, "Succeeded")), lead=make_lead(step=97))
    status = after(running(), plan(running(), done, NOW)).status
    assert (status.progress.step, status.exit_code, status.workers.succeeded) == (100, 0, 2)
    assert holds(status, ConditionType.COMPLETE)
    assert find_condition(status.conditions, ConditionType.FAILED) is None


def test_the_reason_why_pods_wait_is_in_a_condition() -> None:
    pods = (make_pod(0), make_pod(1, "Pending", reason="Unschedulable", message="0/2 nodes are available"))
    status = settle(begun(), Observed(pods=pods)).status
    condition = find_condition(status.conditions, ConditionType.RUNNING)
    assert condition is not None
    assert condition.message == "demo-1-1 waits: Unschedulable: 0/2 nodes are available"


def test_rounds_of_the_lead_are_counted_once() -> None:
    job = running()
    for rounds in (1, 1, 3, 3):
        job = settle(job, Observed(pods=BOTH, lead=make_lead(rounds=rounds)))
    assert job.status.rounds == 3
    assert [restart.scope for restart in job.status.restarts] == ["round"] * 3


def test_restarts_keep_the_last_ten() -> None:
    job = running(run_policy={"backoffLimit": 20})
    for attempt in range(1, 13):
        pods = (make_pod(0, attempt=attempt), make_pod(1, "Failed", attempt=attempt))
        job = settle(job, Observed(pods=pods), NOW + attempt * 1000)
    assert [restart.pod for restart in job.status.restarts] == [f"demo-1-{n}" for n in range(3, 13)]
    assert job.status.attempt == 13


def test_the_passes_until_running_write_three_statuses() -> None:
    job, writes = make_job(replicas=8), 0
    pods = tuple(make_pod(index, "Pending") for index in range(8))
    up = tuple(make_pod(index) for index in range(8))
    looks = [Observed(), Observed(), *(Observed(pods=pods[:n]) for n in range(1, 9))]
    looks += [Observed(pods=up[:n] + pods[n:]) for n in range(1, 9)]
    looks += [Observed(pods=up, lead=make_lead("starting", step=0)), Observed(pods=up, lead=make_lead())]
    for number, look in enumerate(looks):
        step = plan(job, look, NOW + number)
        writes += step.status is not None
        job = after(job, step)
    assert job.status.phase == "Running"
    assert writes <= 4  # attempt, Starting, Running, and the lead's first progress


def test_progress_unreachable_comes_and_goes() -> None:
    job = settle(running(), Observed(pods=BOTH, lead_is_silent=True))
    assert holds(job.status, ConditionType.PROGRESS_UNREACHABLE)
    job = settle(job, Observed(pods=BOTH, lead=make_lead()))
    assert not holds(job.status, ConditionType.PROGRESS_UNREACHABLE)


def test_the_image_is_resolved_once() -> None:
    job = begun()
    assert job.status.image == "adts/trainer:0.1.0"
    pods = plan(job, Observed(), NOW).apply[3:]
    assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {"adts/trainer:0.1.0"}


def test_layout_is_in_words() -> None:
    assert begun(processes=2).status.layout == "dp4, zero 0"
