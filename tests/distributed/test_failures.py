"""How a rank ends when something outside the training goes wrong: one message, the contract's code, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from adts_api.contract import ExitCode
from adts_trainer import heartbeat
from adts_trainer.heartbeat import Heartbeat
from support.faults import (
    disk_full_on_rank_1,
    read_only_on_rank_0,
    slow_steps,
    without_compiler,
)
from support.ranks import custom, free_port, run_job, spec, wait_for_step

pytestmark = pytest.mark.distributed

LONG = {"steps": 2000}
Beats = Callable[[], list[Heartbeat | None]]


def test_sigterm_on_one_rank_saves_on_all_at_one_step_and_the_run_goes_on(tmp_path: Path) -> None:
    def terminate(processes: list[BaseProcess], beats: Beats) -> None:
        wait_for_step(beats, 5)
        os.kill(processes[1].pid or 0, signal.SIGTERM)

    job = spec(training=LONG, optimizer={"schedule": {"type": "constant"}})
    run = run_job(tmp_path, 2, job, prepare=slow_steps, watch=terminate).expect(ExitCode.PREEMPTED)
    saved = {beat.checkpoint_step for beat in run.heartbeats}
    assert len(saved) == 1
    stopped_at = saved.pop()
    assert 5 <= stopped_at < 2000
    assert run.errors == [f"told to stop; saved step {stopped_at}"] * 2
    job = spec(training={"steps": stopped_at + 3}, optimizer={"schedule": {"type": "constant"}})
    resumed = run_job(tmp_path, 2, job, attempt=2).expect()
    assert resumed.series("step") == list(range(1, stopped_at + 4))


def test_a_killed_rank_is_noticed_by_the_others_at_once(tmp_path: Path) -> None:
    killed_at = 0.0

    def kill(processes: list[BaseProcess], beats: Beats) -> None:
        nonlocal killed_at
        wait_for_step(beats, 3)
        processes[1].kill()
        killed_at = time.monotonic()
        processes[0].join(20)

    run = run_job(tmp_path, 2, spec(training=LONG), prepare=slow_steps, watch=kill)
    assert run.exit_codes == [ExitCode.LOST_PEER, -signal.SIGKILL]
    assert time.monotonic() - killed_at < 20
    assert run.heartbeats[0].error.startswith("another process of the job is gone")


def test_a_model_that_raises_is_named_with_its_last_frame(tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, spec(model=custom("Misbehaving", rank=1, calls=[3], action="raise")))
    assert run.exit_codes == [ExitCode.LOST_PEER, ExitCode.USER_CODE]
    message = run.heartbeats[1].error
    assert message.startswith(
        "spec.model.factory: support.user_models:Misbehaving raised ValueError: shapes of my own do not fit ("
    )
    assert "user_models.py:" in message
    assert "in _act" in message
    assert "Traceback" not in run.output


def test_out_of_memory_is_told_apart(tmp_path: Path) -> None:
    run = run_job(tmp_path, 1, spec(model=custom("Misbehaving", rank=0, calls=[2], action="exhaust")))
    run.expect(ExitCode.OUT_OF_MEMORY)
    assert "spec.parallelism.microbatches" in run.errors[0]


@pytest.mark.parametrize("stage", [0, 3], ids=["ddp", "stage 3"])
def test_a_parameter_without_gradient_is_refused(stage: int, tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, spec(model=custom("WithIdleParameter"), zero={"stage": stage}))
    run.expect(ExitCode.USER_CODE)
    assert "forgotten.weight, forgotten.bias" in run.errors[0]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket(socket.AF_INET6) as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("::", port))
        squatter.listen()
        run = run_job(tmp_path, 2, spec(), port=port, start_timeout=2, watch=end_with_the_lead)
    assert run.exit_codes[0] == ExitCode.PORT_TAKEN
    assert run.errors[0].startswith(f"MASTER_PORT: {port} is in use")


def end_with_the_lead(processes: list[BaseProcess], beats: Beats) -> None:
    processes[0].join(20)
    processes[1].kill()  # as the launcher does: it may wait for an answer of the stranger on that port


def test_peers_that_never_come_end_the_start(tmp_path: Path) -> None:
    def leave_one_out(processes: list[BaseProcess], beats: Beats) -> None:
        processes[1].kill()

    run = run_job(tmp_path, 2, spec(), watch=leave_one_out, start_timeout=2)
    assert run.exit_codes[0] == ExitCode.START_TIMEOUT
    assert "within 2 s" in run.errors[0]


@pytest.mark.parametrize("asynchronous", [True, False], ids=["in the background", "at once"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [(disk_full_on_rank_1, "the disk is full"), (read_only_on_rank_0, "Read-only file system")],
    ids=["disk full on rank 1", "read-only on the lead"],
)
def test_a_save_that_fails_ends_all_ranks_and_keeps_the_last_checkpoint(
    fault: Callable[..., None], words: str, asynchronous: bool, tmp_path: Path
) -> None:
    job = spec(checkpoint={"everySteps": 4, "asynchronous": asynchronous}, training={"steps": 8})
    run = run_job(tmp_path, 2, job, prepare=fault).expect(ExitCode.STORAGE)
    assert all(words in error for error in run.errors)
    assert json.loads((run.folder / "latest").read_text())["directory"] == "4-1"
    assert sorted(path.name for path in run.folder.iterdir() if path.is_dir()) == ["4-1"]
    assert run_job(tmp_path, 2, job, attempt=2).expect().series("step") == list(range(1, 9))


def test_an_attempt_that_was_replaced_while_it_ran_commits_nothing(tmp_path: Path) -> None:
    def replace(processes: list[BaseProcess], beats: Beats) -> None:
        wait_for_step(beats, 3)
        lock.write_text(json.dumps({"uid": "job", "attempt": 2}))

    lock = tmp_path / "checkpoints" / "attempt.lock"
    job = spec(training={"steps": 40}, checkpoint={"everySteps": 20})
    run = run_job(tmp_path, 2, job, prepare=slow_steps, watch=replace).expect(ExitCode.FENCED)
    assert "attempt 2 has taken over" in run.errors[0]
    assert not (run.folder / "latest").exists()
    run_job(tmp_path, 1, spec()).expect(ExitCode.FENCED)
    run_job(tmp_path, 1, spec(), attempt=3).expect()


def test_the_job_of_another_owner_is_taken_over(tmp_path: Path) -> None:
    run_job(tmp_path, 1, spec(training={"steps": 2}), attempt=5).expect()
    run_job(tmp_path, 1, spec(training={"steps": 4}), uid="another").expect()


def test_compiling_without_a_compiler_is_refused_before_training(tmp_path: Path) -> None:
    run = run_job(tmp_path, 1, spec(training={"compile": True}), prepare=without_compiler)
    run.expect(ExitCode.BAD_CONFIG)
    assert run.errors[0].startswith("spec.training.compile: true needs a C++ compiler")


def test_recomputing_a_model_without_layers_is_refused(tmp_path: Path) -> None:
    job = spec(model=custom("Flat"), training={"activationCheckpointing": "full"})
    run = run_job(tmp_path, 1, job).expect(ExitCode.BAD_CONFIG)
    assert "no ModuleList" in run.errors[0]


def test_the_heartbeat_of_a_success_says_so(tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, spec(training={"steps": 2})).expect()
    assert [beat.exit_code for beat in run.heartbeats] == [0, 0]
    final = heartbeat.read(next(tmp_path.glob("run-*/rank-0.json")))
    assert final is not None
    assert (final.phase, final.step, final.steps, final.checkpoint_step) == ("done", 2, 2, 2)
