"""What the lead decides, case by case."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

import pytest

from adts_api.contract import ExitCode
from adts_trainer.launch.agreement import Agreement, Limits, RefusedError
from adts_trainer.launch.messages import Decision, Failure, Order, Report

LIMITS = Limits(start_seconds=100, silence_seconds=20, peer_seconds=30, settle_seconds=0.5, drain_seconds=40)


def agreement(nnodes: int = 2, limits: Limits = LIMITS) -> Agreement:
    return Agreement(job_uid="u", attempt=3, nnodes=nnodes, limits=limits, now=0.0)


@dataclass
class Speaker:
    """Sends the reports of one launcher."""

    lead: Agreement
    node: int
    round: int = -1

    def __post_init__(self) -> None:
        self._sequence = count(1)

    def say(self, now: float, **changes) -> Decision:
        report = Report(
            node=self.node, job_uid="u", attempt=3, launcher=f"l{self.node}", sequence=next(self._sequence),
            known=self.lead.decision.number, round=self.round, alive=0,
        )  # fmt: skip
        return self.lead.hear(report.model_copy(update=changes), now)

    def fail(self, now: float, code: int = -9, **changes) -> Decision:
        failure = Failure(node=self.node, rank=self.node, exit_code=code, message=f"from node {self.node}")
        return self.say(now, failure=failure, **changes)


def running(nnodes: int = 2, limits: Limits = LIMITS) -> tuple[Agreement, list[Speaker]]:
    """A job whose round 0 runs one process on each node."""
    lead = agreement(nnodes, limits)
    nodes = [Speaker(lead, node) for node in range(nnodes)]
    for node in nodes:
        node.say(0.0)
    for node in nodes:
        node.round = 0
        node.say(0.0, alive=1)
    assert lead.decision == Decision(order=Order.START, round=0)
    return lead, nodes


def test_the_first_round_waits_for_every_launcher():
    lead = agreement(3)
    zero, one, two = (Speaker(lead, node) for node in range(3))
    assert zero.say(0.0).order is Order.WAIT
    assert one.say(1.0).order is Order.WAIT
    assert two.say(2.0) == Decision(order=Order.START, round=0)


def test_a_launcher_that_never_comes_is_named_after_the_start_timeout():
    lead = agreement(3)
    zero = Speaker(lead, 0)
    zero.say(0.0)
    zero.say(99.0)
    assert lead.decision.order is Order.WAIT
    decision = zero.say(100.1)
    assert (decision.order, decision.exit_code) == (Order.FINISH, ExitCode.START_TIMEOUT)
    assert "waited 100 s for the launchers of all 3 nodes: nodes 1, 2 did not report" in decision.message


def test_a_launcher_that_came_and_went_silent_does_not_count_as_there():
    lead = agreement(2)
    Speaker(lead, 1).say(0.0)
    assert Speaker(lead, 0).say(21.0).order is Order.WAIT


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"job_uid": "other"}, id="another job"),
        pytest.param({"attempt": 2}, id="older attempt"),
        pytest.param({"attempt": 4}, id="newer attempt"),
        pytest.param({"node": 2}, id="node outside the job"),
        pytest.param({"launcher": "second"}, id="second launcher of a node"),
        pytest.param({"round": 5}, id="a round never announced"),
        pytest.param({"known": 9}, id="a decision never taken"),
    ],
)
def test_a_report_that_does_not_belong_here_is_refused_and_changes_nothing(wrong):
    _, (zero, one) = running()
    failure = Failure(node=1, exit_code=ExitCode.BAD_DATA)
    with pytest.raises(RefusedError):
        one.say(1.0, **{"failure": failure, "stopping": True} | wrong)
    assert zero.say(1.0, alive=1) == Decision(order=Order.START, round=0)


def test_a_failure_stops_the_round_and_the_next_begins_when_all_have_reaped():
    lead, (zero, one) = running()
    assert one.fail(1.0) == Decision(order=Order.STOP, round=0)
    assert zero.say(1.1, alive=1).order is Order.STOP
    assert zero.say(1.2, alive=0) == Decision(order=Order.START, round=1)
    assert [cause.exit_code for cause in lead.causes] == [-9]


def test_a_launcher_that_has_not_heard_of_the_stop_may_still_start_the_round():
    lead = agreement(2)
    zero, one = Speaker(lead, 0), Speaker(lead, 1)
    zero.say(0.0)
    one.say(0.0)
    zero.round = 0
    assert zero.fail(1.0).order is Order.STOP
    assert one.say(1.0, known=0).order is Order.STOP, "it may hear START 0 late"
    assert one.say(1.1) == Decision(order=Order.START, round=1)


def test_an_overtaken_report_is_ignored():
    lead, (_zero, one) = running()
    old = Report(node=1, job_uid="u", attempt=3, launcher="l1", sequence=1, known=0, round=0, alive=0, stopping=True)
    one.say(1.0, alive=1)
    assert lead.hear(old, 1.0) == Decision(order=Order.START, round=0)


def test_a_failure_of_an_older_round_changes_nothing():
    lead, (zero, one) = running()
    one.fail(1.0)
    zero.fail(1.0)
    assert lead.round == 1
    assert one.fail(1.1) == Decision(order=Order.START, round=1)


def test_the_first_failure_is_the_cause():
    lead, (zero, one) = running()
    one.fail(1.0, -9)
    zero.fail(1.1, 1)
    assert lead.causes[0].exit_code == -9


def test_a_lost_peer_waits_a_moment_for_who_failed_first():
    lead, (zero, one) = running()
    assert zero.fail(1.0, ExitCode.LOST_PEER, alive=1).order is Order.START
    assert one.fail(1.3, -11).order is Order.STOP
    zero.say(1.4)
    assert lead.causes[0].exit_code == -11


def test_a_lost_peer_without_a_better_cause_stops_the_round_after_the_moment():
    _, (zero, one) = running()
    zero.fail(1.0, ExitCode.LOST_PEER)
    assert one.say(1.6, alive=1).order is Order.STOP


@pytest.mark.parametrize(
    "code",
    [ExitCode.BAD_CONFIG, ExitCode.USER_CODE, ExitCode.BAD_DATA, ExitCode.DIVERGED, ExitCode.FENCED,
     ExitCode.OUT_OF_MEMORY, ExitCode.STORAGE, ExitCode.DEVICE_MISSING, ExitCode.PORT_TAKEN, 42],
)  # fmt: skip
def test_a_failure_that_no_restart_heals_ends_the_pod_at_once_with_its_code(code):
    _, (zero, one) = running(limits=replace(LIMITS, permanent=LIMITS.permanent | {42}))
    decision = one.fail(1.0, code, alive=1)
    assert (decision.order, decision.exit_code) == (Order.FINISH, code)
    assert "from node 1" in decision.message
    assert zero.say(1.0, alive=1) == decision


def test_a_launcher_that_fails_before_any_round_ends_the_pod():
    lead = agreement(3)
    decision = Speaker(lead, 1).fail(0.0, ExitCode.DEVICE_MISSING)
    assert (decision.order, decision.exit_code) == (Order.FINISH, ExitCode.DEVICE_MISSING)


def rounds(lead: Agreement, node: Speaker, steps: list[int]) -> Decision:
    """Fails one round after another, each having reached a step."""
    for step in steps:
        node.fail(1.0, step=step)
        node.round += 1
    return lead.decision


@pytest.mark.parametrize(
    ("steps", "ends"),
    [
        pytest.param([0, 0], False, id="two barren rounds"),
        pytest.param([0, 0, 0], True, id="three barren rounds"),
        pytest.param([5, 5, 5], False, id="the first of them made steps"),
        pytest.param([5, 5, 5, 5], True, id="three that only repeat steps"),
        pytest.param([5, 5, 3, 6, 6, 2], False, id="a new step starts the count again"),
        pytest.param([5, 5, 3, 6, 6, 2, 6], True, id="and then three"),
    ],
)
def test_three_rounds_without_a_new_step_end_the_pod(steps, ends):
    lead, (node,) = running(1)
    decision = rounds(lead, node, steps)
    assert (decision.order is Order.FINISH) is ends
    if ends:
        assert decision.exit_code == ExitCode.NO_PROGRESS
        assert "3 rounds in place without a new step" in decision.message
        assert "Signal9" in decision.message


def test_the_job_is_done_only_when_all_have_finished():
    _, (zero, one) = running()
    assert zero.say(1.0, finished=True).order is Order.START
    assert one.say(1.0, alive=1).order is Order.START
    decision = one.say(1.1, finished=True)
    assert (decision.order, decision.exit_code) == (Order.FINISH, 0)


def test_who_has_finished_starts_again_if_another_failed():
    _, (zero, one) = running()
    zero.say(1.0, finished=True)
    assert one.fail(1.1) == Decision(order=Order.START, round=1)


def test_one_launcher_that_is_told_to_stop_makes_all_drain_and_leave():
    _, (zero, one) = running()
    assert one.say(1.0, alive=1, stopping=True).order is Order.DRAIN
    assert zero.say(1.0, alive=1).order is Order.DRAIN
    assert one.say(2.0, stopping=True).order is Order.DRAIN, "rank 0 commits last"
    decision = zero.say(2.1, stopping=True)
    assert (decision.order, decision.exit_code) == (Order.FINISH, ExitCode.PREEMPTED)


def test_a_drain_that_takes_too_long_ends_anyway():
    _, (zero, one) = running()
    one.say(1.0, alive=1, stopping=True)
    assert zero.say(40.9, alive=1).order is Order.DRAIN
    assert zero.say(41.1, alive=1).exit_code == ExitCode.PREEMPTED


def test_a_crash_while_saving_is_told_but_does_not_restart():
    _, (zero, one) = running()
    one.say(1.0, alive=1, stopping=True)
    one.fail(2.0, -11, stopping=True)
    decision = zero.say(2.0, stopping=True)
    assert decision.exit_code == ExitCode.PREEMPTED
    assert "Signal11" in decision.message


def test_a_permanent_failure_while_saving_stays_permanent():
    _, (zero, one) = running()
    one.say(1.0, alive=1, stopping=True)
    one.fail(2.0, ExitCode.FENCED, stopping=True)
    assert zero.say(2.0, stopping=True).exit_code == ExitCode.FENCED


def test_a_stop_when_the_last_step_is_done_is_a_success():
    _, (zero, one) = running()
    zero.say(1.0, finished=True)
    one.say(1.0, alive=1, stopping=True)
    zero.say(1.1, finished=True)
    assert one.say(1.1, finished=True, stopping=True).exit_code == 0


def test_a_silent_launcher_stops_the_round_and_after_the_deadline_ends_the_pod():
    _, (zero, _one) = running()
    assert zero.say(20.0, alive=1).order is Order.START
    assert zero.say(20.1, alive=1).order is Order.STOP
    assert zero.say(50.0).order is Order.STOP
    decision = zero.say(50.2)
    assert (decision.order, decision.exit_code) == (Order.FINISH, ExitCode.LOST_PEER)
    assert "node 1 did not stop round 0 within 30 s" in decision.message
    assert "silent for 20 s" in decision.message


def test_a_silent_launcher_that_comes_back_in_time_is_taken_into_the_next_round():
    _, (zero, one) = running()
    zero.say(20.1, alive=1)
    zero.say(30.0)
    assert one.say(30.0) == Decision(order=Order.START, round=1)


def test_the_lead_knows_when_everyone_has_heard_the_end():
    lead, (zero, one) = running()
    one.fail(1.0, ExitCode.BAD_DATA)
    zero.say(1.0)
    assert not lead.everyone_knows(1.0)
    one.say(1.1)
    assert lead.everyone_knows(1.1)


def test_nobody_waits_until_a_vanished_launcher_has_heard_the_end():
    lead, (zero, _one) = running()
    zero.fail(20.0, ExitCode.BAD_DATA)
    zero.say(20.0)
    assert lead.everyone_knows(20.1)


def test_decisions_have_one_order():
    orders = [
        Decision(), Decision(order=Order.START, round=0), Decision(order=Order.STOP, round=0),
        Decision(order=Order.START, round=1), Decision(order=Order.STOP, round=1),
        Decision(order=Order.DRAIN, round=0), Decision(order=Order.FINISH, round=0),
    ]  # fmt: skip
    numbers = [decision.number for decision in orders]
    assert numbers == sorted(set(numbers))
