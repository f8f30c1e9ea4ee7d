"""How attempts and jobs end, and what happens next."""

from __future__ import annotations

import pytest

from adts_operator.core.observed import Observed
from adts_operator.core.plan import plan
from support.operator_jobs import NOW, begun, make_lead, make_pod, running, settle
from support.operator_rows import BOTH, Row, suspend_of

ROWS = [
    Row(
        "a worker failed: the next attempt is written, nothing is touched",
        running(),
        Observed(pods=(make_pod(0), make_pod(1, "Failed"))),
        "Restarting",
        events=["WorkerFailed"],
        attempt=2,
    ),
    Row(
        "a pod disappeared",
        running(),
        Observed(pods=(make_pod(0),)),
        "Restarting",
        events=["WorkerLost"],
        attempt=2,
    ),
    Row(
        "a deleted pod may save before anything happens",
        running(),
        Observed(pods=(make_pod(0), make_pod(1, gone_by=NOW + 100.0)), lead=make_lead()),
        "Running",
    ),
    Row(
        "a deleted pod that stays beyond its grace is lost",
        running(),
        Observed(pods=(make_pod(0), make_pod(1, gone_by=NOW - 6.0)), lead=make_lead()),
        "Restarting",
        events=["WorkerLost"],
        attempt=2,
    ),
    Row(
        "a node that does not answer may come back",
        running(),
        Observed(pods=(make_pod(0), make_pod(1, unreachable=True)), lead=make_lead()),
        "Running",
    ),
    Row(
        "a deleted pod whose node does not answer is lost at once",
        running(),
        Observed(pods=(make_pod(0), make_pod(1, unreachable=True, disrupted=True, gone_by=NOW + 100.0))),
        "Restarting",
        events=["WorkerLost"],
        attempt=2,
    ),
    Row(
        "and is the cause of what its peers say",
        running(),
        Observed(
            pods=(make_pod(0, "Failed"), make_pod(1, unreachable=True, disrupted=True, gone_by=NOW + 100.0)),
        ),
        "Restarting",
        events=["WorkerLost"],
        attempt=2,
    ),
    Row(
        "a pod deleted before it ran has nothing to save",
        begun(),
        Observed(pods=(make_pod(0), make_pod(1, "Pending", node="n1", gone_by=NOW + 100.0))),
        "Restarting",
        events=["WorkerLost"],
        attempt=2,
    ),
    Row(
        "a follower that lost its peer waits for the cause",
        running(),
        Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=64)), lead=make_lead()),
        "Running",
    ),
    Row(
        "and is the cause when nothing else turns up",
        running(),
        Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=64, finished_at=NOW - 4.0)), lead=make_lead()),
        "Restarting",
        events=["WorkerFailed"],
        attempt=2,
    ),
    Row(
        "one worker told to stop: the others are left alone to save",
        running(),
        Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=66)), lead=make_lead("stopping")),
        "Running",
    ),
    Row(
        "a permanent exit code ends the job",
        running(),
        Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=4))),
        "Failed",
        events=["PermanentFailure"],
    ),
    Row(
        "a code that the user calls permanent ends the job",
        running(run_policy={"permanentExitCodes": [42]}),
        Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=42))),
        "Failed",
        events=["PermanentFailure"],
    ),
    Row(
        "codes of our trainer mean nothing in the user's script",
        running(command=["python", "train.py"]),
        Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=4))),
        "Restarting",
        events=["WorkerFailed"],
        attempt=2,
    ),
    Row(
        "but a script that does not exist never will",
        running(command=["python", "train.py"]),
        Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=127))),
        "Failed",
        events=["PermanentFailure"],
    ),
    Row(
        "an evicted pod's code is not its own",
        running(),
        Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=4, disrupted=True))),
        "Restarting",
        events=["Preempted"],
        attempt=2,
    ),
    Row(
        "backoff limit 0 allows no second attempt",
        running(run_policy={"backoffLimit": 0}),
        Observed(pods=(make_pod(0), make_pod(1, "Failed"))),
        "Failed",
        events=["BackoffLimitExceeded"],
    ),
    Row(
        "a gang that does not start in time gives its devices back",
        begun(run_policy={"startDeadlineSeconds": 50}),
        Observed(pods=(make_pod(0), make_pod(1, "Pending", reason="Unschedulable"))),
        "Restarting",
        events=["StartDeadlineExceeded"],
        attempt=2,
    ),
    Row(
        "the job as a whole ran too long",
        running(run_policy={"activeDeadlineSeconds": 55}),
        Observed(pods=BOTH, lead=make_lead()),
        "Failed",
        events=["DeadlineExceeded"],
    ),
    Row(
        "every worker ended well",
        running(),
        Observed(pods=(make_pod(0, "Succeeded"), make_pod(1, "Succeeded"))),
        "Succeeded",
        events=["TrainingFinished"],
    ),
    Row(
        "one worker ended well, the other is about to",
        running(),
        Observed(pods=(make_pod(0, "Succeeded"), make_pod(1)), lead=make_lead()),
        "Running",
    ),
    Row(
        "a job that finished while it was told to suspend has finished",
        suspend_of(running()),
        Observed(pods=(make_pod(0, "Succeeded"), make_pod(1, "Succeeded"))),
        "Succeeded",
        events=["TrainingFinished"],
    ),
    Row(
        "a finished job never starts again, its running pods go",
        settle(running(), Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=2)))),
        Observed(pods=(make_pod(0), make_pod(1, "Failed", exit_code=2))),
        "Failed",
        delete=["demo-0-1 3"],
    ),
    Row(
        "cleanPodPolicy None keeps them",
        settle(running(run_policy={"cleanPodPolicy": "None"}), Observed(pods=(make_pod(0, "Failed", exit_code=2),))),
        Observed(pods=(make_pod(0, "Failed", exit_code=2), make_pod(1))),
        "Failed",
    ),
    Row(
        "cleanPodPolicy All deletes the dead as well",
        settle(running(run_policy={"cleanPodPolicy": "All"}), Observed(pods=(make_pod(0, "Failed", exit_code=2),))),
        Observed(pods=(make_pod(0, "Failed", exit_code=2), make_pod(1))),
        "Failed",
        delete=["demo-0-1 3", "demo-1-1 3"],
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_plan(row: Row) -> None:
    row.check()


@pytest.mark.parametrize(
    ("seconds", "after_seconds", "is_removed", "left"),
    [(None, 1e9, False, None), (0, 0.0, True, None), (60, 59.0, False, 1.0), (60, 60.0, True, None)],
)
def test_a_finished_job_is_removed_after_its_time(
    seconds: int | None, after_seconds: float, is_removed: bool, left: float | None
) -> None:
    done = Observed(pods=(make_pod(0, "Succeeded"), make_pod(1, "Succeeded")))
    job = settle(running(run_policy={"ttlSecondsAfterFinished": seconds}), done)
    step = plan(job, done, NOW + after_seconds)
    assert (step.remove_job, step.requeue_after) == (is_removed, left)
    assert plan(running(run_policy={"ttlSecondsAfterFinished": 0}), done, NOW).remove_job is False
