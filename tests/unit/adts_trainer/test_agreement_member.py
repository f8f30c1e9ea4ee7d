"""What one launcher wants of its processes, case by case."""

from __future__ import annotations

import pytest

from adts_api.contract import ExitCode
from adts_trainer.launch.agreement import Limits
from adts_trainer.launch.member import Aim, Goal, Identity, Member
from adts_trainer.launch.messages import Decision, Failure, Order

LIMITS = Limits(start_seconds=100, silence_seconds=20, peer_seconds=30, settle_seconds=0.5, drain_seconds=40)


def member() -> Member:
    return Member(Identity(1, "u", 3, "l1", "lead:29400"), LIMITS, 0.0)


def running(round_: int = 0, processes: int = 2) -> Member:
    one = member()
    one.hear(Decision(order=Order.START, round=round_), 0.0)
    assert one.advance(0.0) == Goal(Aim.RUN, round_)
    one.started(round_, processes)
    return one


def failure(code: int) -> Failure:
    return Failure(node=1, rank=3, exit_code=code)


def test_nothing_runs_before_the_lead_says_so():
    one = member()
    assert one.advance(1.0).aim is Aim.IDLE
    one.hear(Decision(), 1.0)
    assert one.advance(1.0).aim is Aim.IDLE


def test_a_running_round_goes_on():
    assert running().advance(1.0) == Goal(Aim.RUN, 0)


def test_a_failed_process_takes_the_others_of_its_node_with_it():
    one = running()
    one.reaped(-9, failure(-9), 1.0)
    assert one.advance(1.0).aim is Aim.IDLE
    assert one.report().failure == failure(-9)


def test_after_a_lost_peer_the_others_may_say_why_first():
    one = running()
    one.reaped(ExitCode.LOST_PEER, failure(ExitCode.LOST_PEER), 1.0)
    assert one.advance(1.2).aim is Aim.RUN
    assert one.advance(1.6).aim is Aim.IDLE
    one.reaped(1, failure(1), 1.6)
    assert one.report().failure == failure(1)


def test_the_first_real_failure_stays_the_reported_one():
    one = running()
    one.reaped(-9, failure(-9), 1.0)
    one.reaped(1, failure(1), 1.0)
    assert one.report().failure == failure(-9)


def test_the_next_round_starts_after_a_failure():
    one = running(processes=1)
    one.reaped(-9, failure(-9), 1.0)
    one.hear(Decision(order=Order.START, round=1), 1.0)
    assert one.advance(1.0) == Goal(Aim.RUN, 1)
    one.started(1, 1)
    assert (one.report().failure, one.report().round, one.report().alive) == (None, 1, 1)


def test_a_stop_kills_the_round():
    one = running()
    one.hear(Decision(order=Order.STOP, round=0), 1.0)
    assert one.advance(1.0).aim is Aim.IDLE


@pytest.mark.parametrize(
    "late",
    [Decision(), Decision(order=Order.START, round=0), Decision(order=Order.STOP, round=0)],
    ids=["wait", "start 0", "stop 0"],
)
def test_a_late_decision_changes_nothing(late):
    one = running(round_=1)
    one.hear(late, 1.0)
    assert one.advance(1.0) == Goal(Aim.RUN, 1)


def test_a_round_that_is_over_is_never_started_late():
    one = member()
    one.hear(Decision(order=Order.STOP, round=0), 0.0)
    one.hear(Decision(order=Order.START, round=0), 0.0)
    assert one.advance(0.0).aim is Aim.IDLE


def test_it_is_finished_when_all_its_processes_ended_well():
    one = running()
    one.reaped(0, None, 1.0)
    assert not one.report().finished
    one.reaped(0, None, 1.0)
    assert one.report().finished
    assert one.advance(1.0).aim is Aim.IDLE


def test_the_end_is_reached_only_when_all_are_reaped():
    one = running(processes=1)
    one.hear(Decision(order=Order.FINISH, round=0, exit_code=4, message="why"), 1.0)
    assert one.advance(1.0).aim is Aim.IDLE
    one.reaped(-9, None, 1.0)
    assert one.advance(1.0) == Goal(Aim.EXIT, exit_code=4, message="why")


def test_a_signal_makes_the_processes_save_and_waits_for_the_lead():
    one = running(processes=1)
    one.stop(1.0)
    assert one.advance(1.0).aim is Aim.DRAIN
    assert one.report().stopping
    one.reaped(ExitCode.PREEMPTED, None, 5.0)
    assert one.advance(5.0).aim is Aim.IDLE
    one.hear(Decision(order=Order.FINISH, round=0, exit_code=ExitCode.PREEMPTED), 5.0)
    assert one.advance(5.0).exit_code == ExitCode.PREEMPTED


def test_the_lead_can_make_it_drain():
    one = running()
    one.hear(Decision(order=Order.DRAIN, round=0), 1.0)
    assert one.advance(1.0).aim is Aim.DRAIN


def test_a_process_that_saved_and_left_speaks_for_the_others():
    one = running()
    one.reaped(ExitCode.PREEMPTED, None, 1.0)
    assert one.advance(1.0).aim is Aim.DRAIN
    assert one.report().stopping
    assert one.report().failure is None


def test_who_does_not_leave_within_the_grace_is_killed():
    one = running()
    one.stop(1.0)
    one.hear(Decision(order=Order.DRAIN, round=0), 39.0)
    assert one.advance(40.9).aim is Aim.DRAIN
    assert one.advance(41.1).aim is Aim.IDLE


def test_a_stop_before_the_lead_was_met_leaves_at_once():
    one = member()
    one.stop(1.0)
    assert one.advance(1.0) == Goal(Aim.EXIT, exit_code=ExitCode.PREEMPTED, message="told to stop")


def test_a_drained_launcher_does_not_wait_for_a_silent_lead_for_ever():
    one = running(processes=1)
    one.stop(1.0)
    one.reaped(ExitCode.PREEMPTED, None, 2.0)
    assert one.advance(30.0).aim is Aim.IDLE
    assert one.advance(42.0).exit_code == ExitCode.PREEMPTED


def test_a_lead_that_never_answers_is_named_after_the_start_timeout():
    one = member()
    one.refused("it cannot be reached (refused)")
    assert one.advance(99.0).aim is Aim.IDLE
    goal = one.advance(100.1)
    assert goal.exit_code == ExitCode.START_TIMEOUT
    assert goal.message == "waited 100 s for the lead's launcher at lead:29400: it cannot be reached (refused)"


def test_a_lead_that_disappears_stops_the_processes_and_then_the_launcher():
    one = running(processes=1)
    assert one.advance(20.0).aim is Aim.RUN
    one.advance(20.1)
    assert one.advance(20.7).aim is Aim.IDLE
    one.reaped(-9, None, 20.7)
    assert one.advance(50.0).aim is Aim.IDLE
    assert one.advance(50.1).exit_code == ExitCode.LOST_PEER


def test_a_lead_that_comes_back_in_time_finds_the_failure():
    one = running(processes=1)
    one.advance(20.1)
    one.advance(20.7)
    one.reaped(-9, None, 20.7)
    one.hear(Decision(order=Order.START, round=0), 30.0)
    assert one.report().failure.exit_code == ExitCode.LOST_PEER
    one.hear(Decision(order=Order.START, round=1), 30.1)
    assert one.advance(30.1) == Goal(Aim.RUN, 1)


def test_reports_are_numbered_and_survive_the_wire():
    one = running()
    one.reaped(1, failure(1), 1.0)
    first, second = one.report(), one.report()
    assert first.sequence < second.sequence
    assert type(first).model_validate_json(first.model_dump_json(by_alias=True)) == first
