"""Who failed first, what a failure costs, and how long the next attempt waits."""

from __future__ import annotations

from typing import Any

import pytest

from adts_api.contract import ConditionType, Reason
from adts_api.v1alpha1 import Backoff, CheckpointStatus, DistributedTraining
from adts_operator.core.conditions import find_condition
from adts_operator.core.failures import Failure, find_failure
from adts_operator.core.observed import Observed, PodView, sort_pods
from adts_operator.core.plan import plan
from adts_operator.core.policy import Verdict, delay_seconds, judge
from adts_operator.core.times import to_seconds
from support.operator_jobs import NOW, after, make_lead, make_pod, running, settle


def failed(index: int, code: int | None, **fields: Any) -> PodView:
    return make_pod(index, "Failed", exit_code=code, **({"finished_at": NOW - 100.0} | fields))


CAUSES = {
    "the only one": ([failed(0, 1)], "demo-0-1", "Crash"),
    "a crash comes before its echo": ([failed(0, 64), failed(1, 1)], "demo-1-1", "Crash"),
    "also where the echo ended first": (
        [failed(0, 64, finished_at=NOW - 200), failed(1, 71)],
        "demo-1-1",
        "OutOfMemory",
    ),
    "of equals the earliest": ([failed(0, 1), failed(1, 1, finished_at=NOW - 200)], "demo-1-1", "Crash"),
    "an eviction comes before everything": ([failed(0, 4), failed(1, 137, disrupted=True)], "demo-1-1", "Disrupted"),
    "a start timeout tells more than a lost peer": ([failed(0, 64), failed(1, 65)], "demo-1-1", "StartTimeout"),
    "the kernel's word on memory": ([failed(0, 137, reason="OOMKilled")], "demo-0-1", "OutOfMemory"),
    "a pod that never ran": (
        [failed(0, None, reason="UnexpectedAdmissionError")],
        "demo-0-1",
        "UnexpectedAdmissionError",
    ),
    "a pod that is gone": ([failed(0, 64)], "demo-1-1", "Lost"),
    "one that saved tells why another is gone": ([failed(0, 66)], "demo-0-1", "Preempted"),
    "a code of the user's": ([failed(0, 42)], "demo-0-1", "Exit42"),
}


@pytest.mark.parametrize(("pods", "pod", "reason"), CAUSES.values(), ids=CAUSES)
def test_cause(pods: list[PodView], pod: str, reason: str) -> None:
    job = running()
    others = [] if reason in ("Lost", "Preempted") else [make_pod(index) for index in range(len(pods), 2)]
    gang = sort_pods((*pods, *others), 1, 2, trains=True)
    failure = find_failure(job, job.status, gang, NOW)
    assert failure is not None
    assert (failure.pod, failure.reason) == (pod, reason)


@pytest.mark.parametrize(
    ("streak", "seconds"), [(0, 0), (1, 0), (2, 10), (3, 20), (4, 40), (6, 160), (7, 300), (5000, 300)]
)
def test_delay(streak: int, seconds: float) -> None:
    assert delay_seconds(streak) == seconds


CRASH = Failure(pod="demo-0-1", exit_code=1, reason="Crash")
PREEMPTED = Failure(pod="demo-0-1", exit_code=66, reason="Preempted", is_disruption=True)
VERDICTS = {
    # id: failure, newest checkpoint, checkpoint at the last failure, streak -> counts, streak, delay
    "the first failure restarts at once": (CRASH, 0, 0, 0, True, 1, 0.0),
    "without a newer checkpoint it waits": (CRASH, 10, 10, 1, True, 2, 10.0),
    "a newer checkpoint resets the delay, not the count": (CRASH, 20, 10, 5, True, 1, 0.0),
    "a preemption after a checkpoint is free": (PREEMPTED, 20, 10, 0, False, 1, 0.0),
    "a preemption without one is not": (PREEMPTED, 10, 10, 0, True, 1, 0.0),
}


@pytest.mark.parametrize(
    ("failure", "newest", "before", "streak", "counts", "next_streak", "delay"), VERDICTS.values(), ids=VERDICTS
)
def test_verdict(
    failure: Failure, newest: int, before: int, streak: int, counts: bool, next_streak: int, delay: float
) -> None:
    job = running()
    status = job.status.model_copy(
        update={
            "checkpoint": CheckpointStatus(step=newest),
            "backoff": Backoff(streak=streak, checkpoint_step=before),
        }
    )
    verdict = judge(job, status, failure)
    assert (verdict.gives_up, verdict.counts, verdict.streak, verdict.delay_seconds) == (
        None,
        counts,
        next_streak,
        delay,
    )


def test_a_free_preemption_restarts_even_at_the_limit() -> None:
    job = running(run_policy={"backoffLimit": 0})
    status = job.status.model_copy(update={"checkpoint": CheckpointStatus(step=5)})
    assert judge(job, status, PREEMPTED).gives_up is None
    assert judge(job, status, CRASH).gives_up == "BackoffLimitExceeded"


def test_delays_of_a_job_that_fails_again_and_again() -> None:
    job, now, waits = running(run_policy={"backoffLimit": 5}), NOW, []
    while job.status.phase != "Failed":
        attempt = job.status.attempt
        pods = (make_pod(0, attempt=attempt), make_pod(1, "Failed", attempt=attempt, finished_at=now))
        job = settle(job, Observed(pods=pods), now)
        waits.append(to_seconds(job.status.not_before, 0.0) - now)
        step = plan(job, Observed(), now)
        if job.status.phase == "Restarting" and waits[-1] > 0:
            assert step.apply == (), "nothing is made before its time"
            assert step.requeue_after == pytest.approx(waits[-1], abs=0.01)
        now += 1000.0
    assert waits[:5] == [0, 10, 20, 40, 80]
    message = find_condition(job.status.conditions, ConditionType.FAILED)
    assert message is not None
    assert message.message.startswith("6 attempts failed, more than runPolicy.backoffLimit allows; the last: demo-1-6")


def test_device_seconds_count_until_a_pod_ends_and_are_productive_up_to_a_checkpoint() -> None:
    both = (make_pod(0, started_at=NOW), make_pod(1, started_at=NOW))
    job = running(gpus=4)
    job = settle(job, Observed(pods=both, lead=make_lead(step=10)), NOW)
    before = job.status.gpu_seconds.total
    job = settle(job, Observed(pods=both, lead=make_lead(step=20, checkpoint=20)), NOW + 10)
    assert job.status.gpu_seconds.total - before == pytest.approx(80.0)
    productive = job.status.gpu_seconds.productive
    assert productive > 0
    job = settle(job, Observed(pods=both, lead=make_lead(step=30, checkpoint=20)), NOW + 20)
    assert job.status.gpu_seconds.productive == productive
    assert job.status.gpu_seconds.unsaved == pytest.approx(80.0)
    ended = (make_pod(0, started_at=NOW), make_pod(1, "Failed", started_at=NOW, finished_at=NOW + 25))
    job = after(job, plan(job, Observed(pods=ended), NOW + 30))
    assert job.status.gpu_seconds.total - before == pytest.approx(160.0 + 40.0 + 20.0)
    assert job.status.gpu_seconds.unsaved == 0.0
    assert job.status.gpu_seconds.productive == productive


OUT_OF_MEMORY = Failure(pod="demo-0-1", exit_code=137, reason="OutOfMemory", output="peak 79.1 GiB")


def at_step(job: DistributedTraining, step: int, **status: Any) -> DistributedTraining:
    progress = job.status.progress.model_copy(update={"step": step})
    return job.model_copy(update={"status": job.status.model_copy(update={"progress": progress, **status})})


def test_out_of_memory_twice_at_the_same_step_is_permanent() -> None:
    dead = Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=71, message="peak 79.1 GiB")))
    job = settle(at_step(running(), 40), dead)
    assert (job.status.phase, job.status.backoff.out_of_memory_step) == ("Restarting", 40)
    dead = Observed(pods=(make_pod(0, attempt=2), make_pod(1, "Failed", attempt=2, exit_code=71, message="peak 79.1")))
    job = settle(job, dead)
    failed = find_condition(job.status.conditions, ConditionType.FAILED)
    assert failed is not None
    assert (failed.reason, failed.message) == (
        "PermanentFailure",
        "out of memory twice at step 40; use more memory, smaller microbatches or more workers: "
        "demo-1-2 on node-1 exited with code 71 (OutOfMemory)\npeak 79.1",
    )


@pytest.mark.parametrize(
    ("job", "step"),
    [
        (running(), 50),
        (running(command=["python", "train.py"]), 40),
    ],
    ids=["further than before", "of a script nobody knows the step"],
)
def test_out_of_memory_elsewhere_is_not(job: DistributedTraining, step: int) -> None:
    job = at_step(job, step, backoff=Backoff(out_of_memory_step=40))
    assert judge(job, job.status, OUT_OF_MEMORY).gives_up is None


def test_what_a_queue_takes_back_is_free_also_without_a_checkpoint() -> None:
    queued = running(scheduling={"queue": "team"}, run_policy={"backoffLimit": 0})
    assert judge(queued, queued.status, PREEMPTED) == Verdict(counts=False, streak=1)
    volcano = running(scheduling={"queue": "team", "gang": "volcano"}, run_policy={"backoffLimit": 0})
    assert judge(volcano, volcano.status, PREEMPTED).gives_up is Reason.BACKOFF_LIMIT_EXCEEDED
    assert judge(queued, queued.status, CRASH).gives_up is Reason.BACKOFF_LIMIT_EXCEEDED


def test_pods_that_vanish_after_they_were_told_to_go_were_taken_away() -> None:
    """Kueue, or a drain, marks them first; what comes after may be quicker than the next look."""
    job = running(scheduling={"queue": "team"})
    marked = tuple(make_pod(index, disrupted=True, gone_by=NOW + 100.0) for index in range(2))
    job = settle(job, Observed(pods=marked, lead=make_lead()))
    assert (job.status.phase, job.status.workers.disrupted) == ("Running", 2)
    job = settle(job, Observed())
    [restart] = job.status.restarts
    assert (restart.reason, job.status.failures, job.status.attempt) == ("Disrupted", 0, 2)
    assert job.status.workers.disrupted == 0


COMMAND_CAUSES = {
    "codes of our launcher mean nothing": ([failed(0, 64, finished_at=NOW - 200), failed(1, 1)], "demo-0-1", "Exit64"),
    "nor is 66 a disruption": ([failed(0, 66)], "demo-0-1", "Exit66"),
    "a signal is a signal": ([failed(0, 139)], "demo-0-1", "Signal11"),
    "the command is not there": ([failed(0, 127)], "demo-0-1", "CommandNotFound"),
    "the kernel's word on memory": ([failed(0, 137, reason="OOMKilled")], "demo-0-1", "OutOfMemory"),
}


@pytest.mark.parametrize(("pods", "pod", "reason"), COMMAND_CAUSES.values(), ids=COMMAND_CAUSES)
def test_cause_of_a_command(pods: list[PodView], pod: str, reason: str) -> None:
    job = running(command=["python", "train.py"])
    gang = sort_pods((*pods, *(make_pod(index) for index in range(len(pods), 2))), 1, 2, trains=True)
    failure = find_failure(job, job.status, gang, NOW)
    assert failure is not None
    assert (failure.pod, failure.reason, failure.is_disruption) == (pod, reason, False)
    assert failure.settled_at <= NOW
