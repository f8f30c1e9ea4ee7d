"""Restart in place, and when it is not worth one: real launchers, toy ranks."""

from __future__ import annotations

import os
import signal

import pytest

from adts_api.contract import ExitCode
from adts_api.pod_status import PodStatus
from support.launchers import is_alive, jobs, parent_of

pytestmark = pytest.mark.distributed


@pytest.fixture
def job(tmp_path):
    yield from jobs(tmp_path)


def test_a_job_ends_when_all_ranks_have_finished(job):
    one = job({"steps": 5})
    one.start()
    assert one.codes() == [0]
    assert one.steps(0) == {(rank, step) for rank in range(2) for step in range(6)}
    assert "Signal" not in one.log()


@pytest.mark.parametrize("nnodes", [1, 2])
def test_a_killed_rank_restarts_all_ranks_in_place(job, nnodes):
    """From the kill to the next step well under a second; the launchers stay the same processes."""
    one = job({"steps": 40, "step_seconds": 0.02}, nnodes=nnodes, processes=2 // nnodes)
    one.start()
    one.wait_for_step(1, 0, 5)
    victim = next(pid for rank, _, _, pid, _ in one.trace() if rank == 1)
    first_pids = {pid for _, _, _, pid, _ in one.trace()}
    os.kill(victim, signal.SIGKILL)
    one.wait_for_step(1, 1, 0)
    latest_old = max(time for _, round_, _, _, time in one.trace() if round_ == 0)
    first_new = min(time for _, round_, _, _, time in one.trace() if round_ == 1)
    assert first_new > latest_old, "ranks of two rounds never live together"
    assert first_new - latest_old < 2.5
    assert not any(is_alive(pid) for pid in first_pids)
    restarts = one.status()["restarts"]
    assert [(each["scope"], each["exitCode"], each["reason"]) for each in restarts] == [("round", -9, "Signal9")]
    assert restarts[0]["pod"] == f"toy-{nnodes - 1}-1"
    assert restarts[0]["node"] == f"machine-{nnodes - 1}"
    assert one.codes() == [0] * nnodes
    assert {rank for rank, step in one.steps(1) if step == 40} == {0, 1}


def test_the_status_of_a_finished_job_is_left_for_who_started_the_pod(job, tmp_path):
    one = job({"steps": 3, "ends": [[1, 0, 2, -9]]}, options={"termination_path": str(tmp_path / "last")})
    one.start()
    assert one.codes() == [0]
    status = PodStatus.model_validate_json((tmp_path / "last").read_text())
    assert (status.state, status.exit_code, status.round) == ("succeeded", 0, 1)
    assert (status.progress.step, status.progress.steps) == (3, 3)
    assert [each.reason for each in status.restarts] == ["Signal9"]


@pytest.mark.parametrize("failing_rank", [0, 1])
def test_a_permanent_failure_ends_all_launchers_at_once_with_its_code(job, failing_rank):
    one = job({"steps": 1000, "ends": [[failing_rank, 0, 3, int(ExitCode.BAD_DATA)]]}, nnodes=2, processes=1)
    one.start()
    assert one.codes() == [ExitCode.BAD_DATA] * 2
    assert one.steps(1) == set()
    for node in range(2):
        assert f"rank {failing_rank}: BadData: it exited with code 4; its last output:\nleaving with 4" in one.errors(
            node
        )


def test_three_rounds_without_a_new_step_end_the_pod(job):
    one = job({"steps": 50, "ends": [[0, "every", 0, -9], [1, "every", 0, -9]]})
    one.start()
    assert one.codes() == [ExitCode.NO_PROGRESS]
    assert one.steps(2)
    assert one.steps(3) == set()
    assert "3 rounds in place without a new step" in one.errors()
    assert ": Signal9: it was killed by SIGKILL" in one.errors()


def test_rounds_with_new_steps_may_be_many(job):
    ends = [[0, round_, 2 * (round_ + 1), 1] for round_ in range(5)]
    one = job({"steps": 12, "save_every": 1, "ends": ends})
    one.start()
    assert one.codes() == [0]
    assert (0, 12) in one.steps(5)


def test_the_message_of_a_rank_is_the_message_of_the_restart(job):
    one = job({"steps": 30, "step_seconds": 0.02, "ends": [[1, 0, 2, "the link is down"]]})
    one.start()
    one.wait_for_step(0, 1, 1)
    assert one.status()["restarts"][0]["message"] == "the link is down"
    assert one.codes() == [0]


def test_a_rank_that_lost_its_peer_is_not_the_reported_cause(job):
    ends = [[0, 0, 3, int(ExitCode.LOST_PEER)], [1, 0, 8, -11]]
    one = job({"steps": 20, "step_seconds": 0.02, "ends": ends}, nnodes=2, processes=1)
    one.start()
    assert one.codes() == [0, 0]
    assert "all processes start again because of rank 1: Signal11" in one.log()


def test_a_rank_that_cannot_import_its_code_says_so(job):
    one = job({"steps": 1}, processes=1, target="support.nowhere:run")
    one.start()
    assert one.codes() == [ExitCode.NO_PROGRESS]
    assert "No module named 'support.nowhere'" in one.errors()


def test_a_killed_fork_server_is_started_again(job):
    one = job({"steps": 60, "step_seconds": 0.02})
    one.start()
    one.wait_for_step(1, 0, 2)
    pid = one.trace()[0][3]
    fork_server = parent_of(pid)
    os.kill(fork_server, signal.SIGKILL)
    one.wait_for_step(1, 1, 2)
    assert not is_alive(pid)
    assert one.codes() == [0]
