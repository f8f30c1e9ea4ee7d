"""Events: what they contain, that a repetition has the same name, and that a storm is cut off."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from adts_api.contract import Reason
from adts_operator.cluster.events import BURST, REMEMBERED, Limiter, event_name, event_object, shorten
from adts_operator.core.transitions import Event
from support.operator_jobs import UID, make_job

AT = datetime(2026, 11, 22, 8, 5, 3, tzinfo=UTC)
LOST = Event(type="Warning", reason=Reason.WORKER_LOST, message="demo-1-2 on node-b: Lost; attempt 3 begins now")


def test_an_event_is_about_the_job() -> None:
    job = make_job()
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"resource_version": "77"})})
    event = event_object(job, LOST, at=AT, component="adts-operator", instance="pod-x")
    assert event == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(job, LOST), "namespace": "default"},
        "involvedObject": {
            "apiVersion": "adts.dev/v1alpha1",
            "kind": "DistributedTraining",
            "namespace": "default",
            "name": "demo",
            "uid": UID,
            "resourceVersion": "77",
        },
        "type": "Warning",
        "reason": "WorkerLost",
        "message": LOST.message,
        "count": 1,
        "firstTimestamp": "2026-11-22T08:05:03Z",
        "lastTimestamp": "2026-11-22T08:05:03Z",
        "source": {"component": "adts-operator"},
        "reportingComponent": "adts-operator",
        "reportingInstance": "pod-x",
    }


def test_only_a_repetition_has_the_same_name() -> None:
    job = make_job()
    later = job.model_copy(update={"metadata": job.metadata.model_copy(update={"resource_version": "78"})})
    reborn = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": "another"})})
    assert event_name(job, LOST) == event_name(later, LOST)
    others = [
        event_name(reborn, LOST),
        event_name(job, Event(type="Normal", reason=LOST.reason, message=LOST.message)),
        event_name(job, Event(type="Warning", reason=Reason.WORKER_FAILED, message=LOST.message)),
        event_name(job, Event(type="Warning", reason=LOST.reason, message="other")),
    ]
    assert len({event_name(job, LOST), *others}) == 5


@pytest.mark.parametrize(
    ("text", "size", "short"),
    [
        ("short", 10, "short"),
        ("exactly 10", 10, "exactly 10"),
        ("eleven long", 10, "eleven ..."),
        ("üüüüüü", 12, "üüüüüü"),
        ("üüüüüüü", 12, "üüüü..."),
    ],
)
def test_a_message_is_cut_between_characters(text: str, size: int, short: str) -> None:
    assert shorten(text, size) == short
    assert len(short.encode()) <= size


def test_a_storm_of_events_is_cut_off_for_its_job_alone() -> None:
    now = 1000.0
    limiter = Limiter(clock=lambda: now)
    assert [limiter.allows("a") for _ in range(BURST + 2)] == [True] * BURST + [False] * 2
    assert limiter.allows("b")
    now += 61.0
    assert [limiter.allows("a") for _ in range(2)] == [True, False]
    now += 86_400.0
    assert sum(limiter.allows("a") for _ in range(100)) == BURST


def test_the_limiter_does_not_grow_with_every_job_there_ever_was() -> None:
    limiter = Limiter(clock=lambda: 1000.0)
    for job in range(REMEMBERED + 100):
        limiter.allows(f"job-{job}")
    assert len(limiter._jobs) == REMEMBERED
