"""Why a gang does not run yet, who is told of it how often, and which waiting has a deadline."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adts_api.contract import ConditionType
from adts_operator.core.conditions import find_condition
from adts_operator.core.observed import Observed, PodView
from adts_operator.core.plan import plan
from adts_operator.core.writes import HOLD_SECONDS
from support.operator_jobs import NOW, after, begun, make_job, make_lead, make_pod, running, settle

NO_ROOM = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


def pending(index: int, reason: str, message: str = "", **fields: object) -> PodView:
    return make_pod(index, "Pending", reason=reason, message=message, **fields)


REASONS = {
    # id: queue, pods -> phase, reason of the condition Running, its message
    "no room": ("", (make_pod(0), pending(1, "Unschedulable", NO_ROOM)), "Pending", "Unschedulable",
                f"demo-1-1 waits: Unschedulable: {NO_ROOM}"),
    "a gate of the user's own": ("", (make_pod(0), pending(1, "SchedulingGated")), "Pending", "Unschedulable",
                                 "demo-1-1 waits: SchedulingGated"),
    "in a queue": ("team", (pending(0, "SchedulingGated", "gated"), pending(1, "SchedulingGated")), "Queued", "Queued",
                   "demo-0-1 waits: SchedulingGated: gated"),
    "admitted, but there is no room": ("team", (make_pod(0), pending(1, "Unschedulable", NO_ROOM)), "Pending",
                                       "Unschedulable", f"demo-1-1 waits: Unschedulable: {NO_ROOM}"),
    "an image": ("", (make_pod(0), pending(1, "ErrImagePull", "not found", node="n")), "Starting", "ImagePullFailed",
                 "demo-1-1 waits: ErrImagePull: not found"),
    "an image, some time later": ("", (make_pod(0), pending(1, "ImagePullBackOff", "not found", node="n")), "Starting",
                                  "ImagePullFailed", "demo-1-1 waits: ImagePullBackOff: not found"),
    "a secret that is not there": ("", (pending(0, "CreateContainerConfigError", 'secret "s" not found', node="n"),
                                        make_pod(1)), "Starting", "ContainerNotCreated",
                                   'demo-0-1 waits: CreateContainerConfigError: secret "s" not found'),
    "what tells most comes first": ("", (pending(0, "Unschedulable", NO_ROOM), pending(1, "ErrImagePull", "no")),
                                    "Pending", "ImagePullFailed", "demo-1-1 waits: ErrImagePull: no"),
    "nothing worth telling": ("", (make_pod(0), pending(1, "ContainerCreating", node="n")), "Starting",
                              "WorkersStarting", "the 2 workers of attempt 1 start"),
    "something unknown": ("", (make_pod(0), pending(1, "Meditating", node="n")), "Starting", "WorkersStarting",
                          "demo-1-1 waits: Meditating"),
}  # fmt: skip


@pytest.mark.parametrize(("queue", "pods", "phase", "reason", "message"), REASONS.values(), ids=REASONS)
def test_the_condition_says_why(queue: str, pods: tuple[PodView, ...], phase: str, reason: str, message: str) -> None:
    job = settle(begun(scheduling={"queue": queue}), Observed(pods=pods))
    condition = find_condition(job.status.conditions, ConditionType.RUNNING)
    assert condition is not None
    assert (job.status.phase, condition.status, condition.reason, condition.message) == (
        phase,
        "False",
        reason,
        message,
    )


def test_people_are_told_once_for_each_reason() -> None:
    job = begun()
    told = []
    for second, pods in enumerate([(pending(0, "Unschedulable", f"{n} nodes"), make_pod(1)) for n in range(5)]):
        step = plan(job, Observed(pods=pods), NOW + 20 * second)
        told += [event.reason for event in step.events]
        job = after(job, step)
    assert told == ["Unschedulable"]


def test_a_message_that_changes_is_written_every_ten_seconds_at_most() -> None:
    job, writes = settle(begun(), Observed(pods=(pending(0, "Unschedulable", "0"), make_pod(1)))), []
    for second in range(1, 41):
        step = plan(job, Observed(pods=(pending(0, "Unschedulable", str(second)), make_pod(1))), NOW + second)
        if step.status is None:
            assert step.requeue_after is not None
            assert step.requeue_after <= HOLD_SECONDS, "what is held back is looked at again"
        else:
            writes.append(second)
        job = after(job, step)
    assert writes == [10, 20, 30, 40]


def test_a_gang_that_is_stuck_shows_how_many_run() -> None:
    job = begun(replicas=8)
    pods = (*(make_pod(index) for index in range(7)), pending(7, "ContainerCreating", node="n"))
    job = settle(job, Observed(pods=pods[:1] + tuple(pending(i, "", node="n") for i in range(1, 8))), NOW)
    held = plan(job, Observed(pods=pods), NOW + 2.0)
    assert (held.status, held.requeue_after) == (None, pytest.approx(8.0))
    job = after(job, plan(job, Observed(pods=pods), NOW + HOLD_SECONDS))
    assert (job.status.workers.ready, job.status.workers.desired, job.status.phase) == (7, 8, "Starting")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.floats(0.01, 9.0), st.booleans(), st.randoms(use_true_random=False))
def test_a_gang_costs_three_writes_until_it_runs(
    replicas: int, seconds: float, is_command: bool, random: object
) -> None:
    """However its pods turn up, get nodes and start: the attempt, Starting, Running."""
    job = make_job(replicas=replicas, **({"command": ["x"]} if is_command else {}))
    looks: list[tuple[PodView, ...]] = [(), ()]
    pods: dict[int, PodView] = {}
    for phase, fields in (("Pending", {}), ("Pending", {"node": "n"}), ("Running", {})):
        for index in sorted(range(replicas), key=lambda _: random.random()):  # type: ignore[attr-defined]
            pods[index] = make_pod(index, phase, **fields)
            looks.append(tuple(pods.values()))
    looks.append(looks[-1])
    writes, now = 0, NOW
    for number, seen in enumerate(looks):
        is_last = number == len(looks) - 1
        lead = None if is_command else make_lead() if is_last else make_lead("starting", step=0)
        step = plan(job, Observed(pods=seen, lead=lead), now)
        writes += step.status is not None
        job, now = after(job, step), now + seconds / len(looks)
    assert job.status.phase == "Running"
    assert writes == 3


def test_a_slow_gang_costs_a_write_every_ten_seconds_at_most() -> None:
    job, pods = begun(replicas=100), [pending(index, "", node="n") for index in range(100)]
    job, writes = settle(job, Observed(pods=tuple(pods)), NOW), 0
    for index in range(100):
        pods[index] = make_pod(index)
        step = plan(job, Observed(pods=tuple(pods)), NOW + index)
        writes += step.status is not None
        job = after(job, step)
    assert writes <= 10


def test_the_end_of_a_gang_costs_no_write_per_pod() -> None:
    job, pods = running(replicas=50), [make_pod(index) for index in range(50)]
    job, writes = settle(job, Observed(pods=tuple(pods), lead=make_lead()), NOW), 0
    for index in range(50):
        pods[index] = make_pod(index, "Succeeded")
        step = plan(job, Observed(pods=tuple(pods), lead=make_lead()), NOW + 0.1 * index)
        writes += step.status is not None
        job = after(job, step)
    assert job.status.phase == "Succeeded"
    assert writes == 2


DEADLINES = {
    # id: scheduling, pods, whether the 600 s of an attempt are over after a day
    "no room": ({}, (make_pod(0), pending(1, "Unschedulable", NO_ROOM)), True),
    "in a queue": ({"queue": "team"}, (pending(0, "SchedulingGated"), pending(1, "SchedulingGated")), False),
    "a gang that waits as a whole": (
        {"gang": "native"}, (pending(0, "Unschedulable", NO_ROOM), pending(1, "Unschedulable", NO_ROOM)), False,
    ),
    "a gang whose image is missing": ({"gang": "native"}, (make_pod(0), pending(1, "ErrImagePull")), True),
}  # fmt: skip


@pytest.mark.parametrize(("scheduling", "pods", "is_over"), DEADLINES.values(), ids=DEADLINES)
def test_only_who_holds_devices_must_start_in_time(
    scheduling: dict[str, str], pods: tuple[PodView, ...], is_over: bool
) -> None:
    job = settle(begun(scheduling=scheduling), Observed(pods=pods))
    step = plan(job, Observed(pods=pods), NOW + 86_400.0)
    assert (step.status is not None) == is_over
    assert after(job, step).status.failures == is_over


def test_a_gang_that_is_admitted_after_a_day_has_all_its_time_to_start() -> None:
    gated = (pending(0, "SchedulingGated"), pending(1, "SchedulingGated"))
    job = settle(begun(scheduling={"queue": "team"}), Observed(pods=gated))
    admitted, later = (make_pod(0), pending(1, "ContainerCreating", node="n")), NOW + 86_400.0
    job = settle(job, Observed(pods=admitted), later)
    assert (job.status.phase, job.status.failures) == ("Starting", 0)
    assert plan(job, Observed(pods=admitted), later + 599.0).status is None
    assert after(job, plan(job, Observed(pods=admitted), later + 601.0)).status.failures == 1
