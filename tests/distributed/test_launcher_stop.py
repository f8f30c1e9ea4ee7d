"""Signals, vanished launchers and wrong ones: who leaves, how, and what is left. Real launchers, toy ranks."""

from __future__ import annotations

import os
import signal
import time

import pytest

from adts_api.contract import ExitCode
from support.launchers import is_alive, jobs, parent_of, wait_until

pytestmark = pytest.mark.distributed


@pytest.fixture
def job(tmp_path):
    yield from jobs(tmp_path)


LONG = {"steps": 2000, "step_seconds": 0.02}


@pytest.mark.parametrize("told", [0, 1])
def test_sigterm_to_one_launcher_makes_all_save_and_leave(job, told):
    one = job(LONG, nnodes=2, processes=1)
    pods = one.start()
    for rank in range(2):
        one.wait_for_step(rank, 0, 3)
    pods[told].send_signal(signal.SIGTERM)
    assert one.codes() == [ExitCode.PREEMPTED] * 2
    assert one.steps(1) == set()
    for node in range(2):
        assert f"[rank {node}] leaving with 66" in one.log(node)
        assert "told to stop" in one.errors(node)


def test_sigterm_before_anything_started_leaves_at_once(job):
    one = job(LONG, nnodes=2)
    (pod,) = one.start(0)
    wait_until(one.status)
    pod.send_signal(signal.SIGTERM)
    assert one.codes(5.0) == [ExitCode.PREEMPTED]


def test_a_rank_that_does_not_leave_is_killed_after_the_grace(job):
    one = job({}, processes=1, target="support.launcher_targets:sleep", limits={"drain_seconds": 1.0})
    (pod,) = one.start()
    pid = int(wait_until(lambda: read(one.folder / "pid-0")))
    pod.send_signal(signal.SIGTERM)
    wait_until(lambda: one.status().get("state") == "stopping")
    assert one.codes(8.0) == [ExitCode.PREEMPTED]
    assert not is_alive(pid)


def test_a_second_ctrl_c_kills_at_once(job):
    one = job({}, processes=1, target="support.launcher_targets:sleep")
    (pod,) = one.start()
    pid = int(wait_until(lambda: read(one.folder / "pid-0")))
    pod.send_signal(signal.SIGINT)
    wait_until(lambda: "SIGINT: saving and leaving" in one.log())
    pod.send_signal(signal.SIGINT)
    assert one.codes(5.0) == [ExitCode.INTERRUPTED]
    assert not is_alive(pid)


def test_a_signal_to_the_whole_group_still_lets_the_ranks_save(job):
    """Ctrl-C in a terminal reaches every process of the group: fork server and ranks must leave it to the launcher."""
    one = job(LONG)
    (pod,) = one.start()
    one.wait_for_step(1, 0, 3)
    os.killpg(pod.pid, signal.SIGINT)
    assert one.codes() == [ExitCode.PREEMPTED]
    assert "[rank 0] leaving with 66" in one.log()
    assert "[rank 1] leaving with 66" in one.log()


def test_no_rank_and_no_fork_server_outlives_a_killed_launcher(job):
    one = job(LONG)
    (pod,) = one.start()
    one.wait_for_step(1, 0, 3)
    pids = {pid for _, _, _, pid, _ in one.trace()}
    pids.add(parent_of(min(pids)))
    assert len(pids) == 3
    pod.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), seconds=2.0)


def test_followers_of_a_lost_lead_stop_their_ranks_and_leave_retryable(job):
    one = job(LONG, nnodes=2, processes=1, limits={"silence_seconds": 1.0, "peer_seconds": 1.0})
    lead, follower = one.start()
    one.wait_for_step(1, 0, 3)
    rank = next(pid for number, _, _, pid, _ in one.trace() if number == 1)
    lead.kill()
    wait_until(lambda: not is_alive(rank), seconds=5.0)
    assert follower.poll() is None, "the lead may come back until the deadline"
    assert follower.wait(8.0) == ExitCode.LOST_PEER
    assert f"the lead's launcher at 127.0.0.1:{one.ports[0]} was silent for" in one.errors(1)


def test_a_lead_whose_follower_is_gone_leaves_retryable(job):
    one = job(LONG, nnodes=2, processes=1, limits={"silence_seconds": 1.0, "peer_seconds": 1.0})
    lead, follower = one.start()
    one.wait_for_step(0, 0, 3)
    follower.kill()
    assert lead.wait(8.0) == ExitCode.LOST_PEER
    assert "node 1 did not stop round 0 within 1 s" in one.errors(0)


@pytest.mark.parametrize(
    ("foreign", "reason"),
    [
        pytest.param({"job_uid": "other"}, "refuses us (409", id="another job"),
        pytest.param({"attempt": 2}, "refuses us (409", id="another attempt"),
        pytest.param({"token": "wrong"}, "refuses us (401", id="another token"),
    ],
)
def test_a_launcher_of_another_job_is_turned_away_and_the_right_one_still_counts(job, foreign, reason):
    one = job({"steps": 3}, nnodes=2, processes=1, options={"token": "right"})
    one.start(0)
    (stranger,) = one.start(1, limits={"start_seconds": 1.5}, **foreign)
    assert stranger.wait(10.0) == ExitCode.START_TIMEOUT
    assert reason in one.errors(1)
    assert one.trace() == []
    (right,) = one.start(1)
    assert right.wait(10.0) == 0
    assert one.pods[0].wait(10.0) == 0


def test_a_lead_waits_a_bounded_time_and_names_who_is_missing(job):
    one = job({"steps": 3}, nnodes=3, limits={"start_seconds": 1.5})
    one.start(0, 2)
    started = time.monotonic()
    assert one.codes(10.0) == [ExitCode.START_TIMEOUT] * 2
    assert time.monotonic() - started < 8.0
    assert "waited 1.5 s for the launchers of all 3 nodes: node 1 did not report" in one.errors(0)


def test_a_port_in_use_ends_in_one_message(job):
    one = job(LONG)
    one.start(0)
    wait_until(one.status)
    (second,) = one.start(0)
    assert second.wait(10.0) != 0
    assert f"ADTS_PORT: port {one.ports[0]} is in use" in one.errors()


def read(path) -> str:
    """Text of a file; empty while it is not there."""
    return path.read_text() if path.exists() else ""
