"""`adts logs`: which lines are chosen, their order, and what is said of pods without any."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from adts_api.contract import ConditionType, Reason
from adts_api.errors import ConfigError
from adts_api.v1alpha1 import DistributedTraining, Restart
from adts_operator.commands.log_lines import Choice, LogLine, by_time, choose, has_log, kept_output, parse_line
from adts_operator.commands.log_words import state_words, waiting_words
from adts_operator.core.conditions import with_condition
from adts_operator.core.observed import PodView
from support.operator_jobs import NOW, make_job, make_pod
from support.operator_pages import ago, telling

POD = make_pod(1)
ANYTHING: dict[str, Any] = {
    "attempt": None,
    "previous": False,
    "worker": None,
    "rank": None,
    "tail": None,
    "since_seconds": None,
}
SECOND = telling(status={"attempt": 2})


def test_a_line_is_split_from_its_time() -> None:
    line = parse_line(POD, "2027-01-15T08:00:00.123456789Z [rank 0] step 1  loss 2")
    assert (line.stamp, line.text) == ("2027-01-15T08:00:00.123456789Z", "[rank 0] step 1  loss 2")
    assert line.seconds == pytest.approx(NOW + 0.123456, abs=1e-5)


@pytest.mark.parametrize("text", ["unable to retrieve container logs for containerd://1f", "", "word"])
def test_a_complaint_of_the_kubelet_has_no_time(text: str) -> None:
    assert parse_line(POD, text) == LogLine(POD, "", 0.0, text)


async def test_lines_of_all_pods_come_in_the_order_of_time() -> None:
    async def log(pod: PodView, *seconds: int) -> AsyncIterator[LogLine]:
        for second in seconds:
            yield parse_line(pod, f"2027-01-15T08:00:{second:02}.5Z {pod.name} {second}" if second else "a complaint")

    logs = [log(make_pod(0), 1, 4, 0, 9), log(make_pod(1)), log(make_pod(2), 2, 3, 5)]
    assert [line.text async for line in by_time(logs)] == [
        "demo-0-1 1",
        "demo-2-1 2",
        "demo-2-1 3",
        "demo-0-1 4",
        "a complaint",
        "demo-2-1 5",
        "demo-0-1 9",
    ]


CHOICES: list[tuple[str, DistributedTraining, dict[str, Any], Choice]] = [
    ("everything", SECOND, {}, Choice()),
    ("the attempt before", SECOND, {"previous": True}, Choice(attempt=1)),
    ("a rank is in its worker", SECOND, {"rank": 11}, Choice(worker=1, rank=11)),
    ("a script with one process in a pod", telling(gpus=0, command=["sh"]), {"rank": 1}, Choice(worker=1)),
    ("the last lines", SECOND, {"tail": 5, "since_seconds": 60}, Choice(tail=5, since_seconds=60)),
]


@pytest.mark.parametrize(("job", "asked", "choice"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES])
def test_choose(job: DistributedTraining, asked: dict[str, Any], choice: Choice) -> None:
    assert choose(job, **ANYTHING | asked) == choice


REFUSED: list[tuple[str, DistributedTraining, dict[str, Any], str]] = [
    ("first attempt", telling(), {"previous": True}, "--previous: gpt2 has no attempt before attempt 1"),
    ("unborn", make_job(name="gpt2"), {"attempt": 1}, "--attempt 1: gpt2 has not begun; leave --attempt away"),
    ("future attempt", SECOND, {"attempt": 3}, "--attempt 3: gpt2 is at attempt 2; use 1 to 2"),
    ("no such worker", SECOND, {"worker": 2}, "--worker 2: gpt2 has 2 workers; use 0 to 1"),
    ("no such rank", SECOND, {"rank": 16}, "--rank 16: gpt2 has 16 ranks; use 0 to 15"),
    ("rank of a script", telling(command=["sh"]), {"rank": 3}, "does not name its rank; use --worker"),
]


@pytest.mark.parametrize(("job", "asked", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_a_job_does_not_have_is_refused(job: DistributedTraining, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(job, **ANYTHING | asked)


def test_a_choice_takes_pods_and_shows_lines() -> None:
    assert Choice().takes(make_pod(0), 1)
    assert not Choice().takes(make_pod(0), 2)
    assert not Choice(worker=1).takes(make_pod(0), 1)
    assert Choice(rank=1).shows("[rank 1] step 1")
    assert not Choice(rank=1).shows("[rank 10] step 1")
    assert Choice(tail=0, since_seconds=60).query == {"tailLines": "0", "sinceSeconds": "60"}


def test_the_output_that_was_kept_of_a_dead_attempt_is_found() -> None:
    restarts = [
        Restart(time=ago(90), scope="round", pod="gpt2-0-1", message="in place"),
        Restart(time=ago(60), scope="attempt", pod="gpt2-1-1", message="first"),
        Restart(time=ago(30), scope="attempt", pod="gpt2-1-11", message="eleventh"),
    ]
    job = telling(status={"attempt": 12, "restarts": restarts, "phase": "Failed"})
    status = with_condition(job.status, ConditionType.FAILED, True, Reason.PERMANENT_FAILURE, "last", now=NOW)
    job = job.model_copy(update={"status": status})
    assert [kept_output(job, attempt) for attempt in (1, 2, 11, 12)] == ["first", "", "eleventh", "last"]


WAITING: list[tuple[str, PodView, str]] = [
    ("not placed", make_pod(0, "Pending"), "demo-0-1: waiting for a node"),
    (
        "no room",
        make_pod(0, "Pending", reason="Unschedulable", message="0/2 nodes\nmore"),
        "demo-0-1: waiting for a node: Unschedulable: 0/2 nodes",
    ),
    (
        "no image",
        make_pod(0, "Pending", node="n1", reason="ErrImagePull", message="not found"),
        "demo-0-1: waiting for its container on n1: ErrImagePull: not found",
    ),
    (
        "evicted before it ran",
        make_pod(0, "Failed", exit_code=None, reason="Evicted", message="out of disk"),
        "demo-0-1: never started: Evicted: out of disk",
    ),
]


@pytest.mark.parametrize(("pod", "words"), [row[1:] for row in WAITING], ids=[row[0] for row in WAITING])
def test_a_pod_without_a_log_says_what_it_waits_for(pod: PodView, words: str) -> None:
    assert list(waiting_words([pod])) == [words]


def test_pods_that_wait_for_the_same_are_told_once_and_running_ones_not() -> None:
    pods = [make_pod(9), *(make_pod(index, "Pending", reason="Unschedulable", message="no") for index in range(5))]
    assert list(waiting_words(pods)) == [
        "demo-0-1, demo-1-1, demo-2-1 and others: waiting for a node: Unschedulable: no"
    ]
    assert not list(waiting_words([make_pod(0, "Pending", reason="ContainerCreating")], only_telling=True))


def test_a_failed_pod_has_a_log_if_its_trainer_ran() -> None:
    assert has_log(make_pod(0, "Failed"))
    assert not has_log(make_pod(0, "Failed", exit_code=None))


def test_the_state_of_a_job_in_words() -> None:
    assert state_words(telling()) == "gpt2 is Running, attempt 1"
    job = telling(status={"phase": "Restarting", "attempt": 2})
    status = with_condition(job.status, ConditionType.RUNNING, False, Reason.WORKER_LOST, "gpt2-1-1: Lost\nx", now=NOW)
    job = job.model_copy(update={"status": status})
    assert state_words(job) == "gpt2 is Restarting, attempt 2: WorkerLost: gpt2-1-1: Lost"
    assert state_words(make_job()).startswith("demo is Pending. The operator has not looked at it yet.")
