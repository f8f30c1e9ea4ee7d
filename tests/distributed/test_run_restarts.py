"""`adts run` with a stand-in for the launcher: the life of a job whose pods end in every way. Real processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support.operator_runs import Workplace, is_gone, trains

pytestmark = pytest.mark.distributed


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def test_success(place: Workplace) -> None:
    done = place.adts("run", "training.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo-0-1 pod 0 attempt 1 from step 0" in done.stdout
    assert "[adts] demo succeeded" in done.stdout
    status = place.status()
    assert (status["phase"], status["exitCode"], status["progress"]["step"]) == ("Succeeded", 0, 50)
    workers = status["workers"]
    assert workers.pop("at") <= status["finishedAt"]
    assert workers == {"desired": 2, "created": 2, "ready": 0, "succeeded": 2, "failed": 0, "disrupted": 0}


def test_a_retryable_failure_starts_a_new_attempt_from_the_checkpoint(place: Workplace) -> None:
    done = place.adts("run", "training.yaml", faults={"1-1": [30, 64]})
    assert done.returncode == 0, done.stderr
    status = place.status()
    assert (status["attempt"], status["failures"]) == (2, 1)
    [restart] = status["restarts"]
    assert (restart["pod"], restart["exitCode"], restart["reason"]) == ("demo-1-1", 64, "LostPeer")
    assert restart["message"].endswith("made to fail at step 30")
    resumed = int(place.log("demo-0-2").split("from step ")[1].split()[0])
    assert resumed > 0
    assert "WorkerFailed: demo-1-1" in done.stdout


def test_a_permanent_failure_ends_with_its_code_and_reason(place: Workplace) -> None:
    done = place.adts("run", "training.yaml", faults={"1-1": [20, 4]})
    assert done.returncode == 4
    assert "adts: demo failed: PermanentFailure: demo-1-1" in done.stderr
    assert "exited with code 4 (BadData)\nmade to fail at step 20\nlogs: runs/demo/logs" in done.stderr
    assert "Traceback" not in done.stderr
    status = place.status()
    assert (status["phase"], status["attempt"], status["exitCode"]) == ("Failed", 1, 4)
    assert all(is_gone(pid) for pid in place.pids())


def test_the_backoff_limit_bounds_the_attempts(place: Workplace) -> None:
    limit = "runPolicy.backoffLimit=1"
    done = place.adts("run", "training.yaml", "--set", limit, faults={"0-*": [5, 1]})
    assert done.returncode == 1
    assert "BackoffLimitExceeded: 2 attempts failed" in done.stderr
    assert place.status()["attempt"] == 2


def test_a_failed_job_run_again_has_another_life_and_goes_on(place: Workplace) -> None:
    place.adts("run", "training.yaml", faults={"0-1": [20, 4]})
    done = place.adts("run", "training.yaml")
    assert done.returncode == 0, done.stderr
    status = place.status()
    assert (status["attempt"], status["failures"], status["exitCode"]) == (2, 0, 0)
    assert "pod 0 attempt 2 from step 20" in place.log("demo-0-2")
    assert [it["type"] for it in status["conditions"] if it["status"] == "True"] == ["Valid", "Complete"]


def test_a_killed_pod_is_restarted_with_the_reason_in_the_status(place: Workplace) -> None:
    with place.started("run", "training.yaml", "--set", "training.steps=200") as process:
        place.wait_for(trains(10))
        os.kill(place.pids()[1], signal.SIGKILL)
        place.wait_for(lambda status: status["attempt"] == 2 and trains(10)(status))
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    [restart] = place.status()["restarts"]
    assert (restart["pod"], restart["exitCode"], restart["reason"]) == ("demo-1-1", 137, "Signal9")


def test_ctrl_c_saves_and_the_same_command_resumes(place: Workplace) -> None:
    with place.started("run", "training.yaml", "--set", "training.steps=100") as process:
        place.wait_for(trains(15))
        pids = place.pids()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "saving and stopping" in out
    assert "[adts] go on with: adts run training.yaml --set training.steps=100" in out
    assert all(is_gone(pid) for pid in pids)
    saved = place.status()["checkpoint"]["step"]
    assert saved >= 15
    assert place.status()["phase"] == "Suspended"

    done = place.adts("run", "training.yaml", "--set", "training.steps=100")
    assert done.returncode == 0, done.stderr
    assert f"pod 0 attempt 2 from step {saved}" in place.log("demo-0-2")
    assert place.status()["failures"] == 0


def test_a_killed_run_is_continued_and_what_it_left_behind_is_ended(place: Workplace) -> None:
    with place.started("run", "training.yaml", "--set", "training.steps=400") as process:
        place.wait_for(trains(15))
        pids = place.pids()
        process.kill()
        process.communicate()
        assert not any(is_gone(pid) for pid in pids), "pods outlive a killed run"
        done = place.adts("run", "training.yaml", "--set", "training.steps=400")
    assert done.returncode == 0, done.stderr
    assert "ending what a killed run left behind" in done.stdout
    assert all(is_gone(pid) for pid in pids)
    status = place.status()
    assert (status["attempt"], status["failures"]) == (2, 0)
    assert "preempted at step" in place.log("demo-0-1"), "the survivors could still save"


def test_two_runs_of_one_job_at_once(place: Workplace) -> None:
    with place.started("run", "training.yaml", "--set", "training.steps=400") as process:
        place.wait_for(trains(5))
        second = place.adts("run", "training.yaml", "--set", "training.steps=400")
        assert second.returncode == 2
        assert second.stderr.startswith(f"adts: runs/demo: process {process.pid} already runs this job; wait for it")
        assert process.poll() is None


def test_a_finished_job_says_so_unless_fresh(place: Workplace) -> None:
    place.adts("run", "training.yaml")
    again = place.adts("run", "training.yaml")
    assert again.returncode == 0
    assert "demo has finished: step 50, runs/demo; --fresh starts over" in again.stdout
    assert place.status()["attempt"] == 1

    fresh = place.adts("run", "training.yaml", "--fresh")
    assert fresh.returncode == 0, fresh.stderr
    assert "pod 0 attempt 1 from step 0" in place.log("demo-0-1")


def test_a_finished_job_with_another_spec_goes_on(place: Workplace) -> None:
    place.adts("run", "training.yaml")
    more = place.adts("run", "training.yaml", "--set", "training.steps=80")
    assert more.returncode == 0, more.stderr
    assert "pod 0 attempt 2 from step 50" in place.log("demo-0-2")
    assert place.job()["metadata"]["generation"] == 2
    assert place.status()["observedGeneration"] == 2


def test_a_second_ctrl_c_kills(place: Workplace) -> None:
    job = ["run", "training.yaml", "--set", "training.steps=100000"]
    with place.started(*job) as process:
        place.wait_for(trains(5))
        pids = place.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # a pod that cannot leave
        process.send_signal(signal.SIGINT)
        place.wait_for(lambda status: status["phase"] == "Suspended")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "killing everything" in out
    assert all(is_gone(pid) for pid in pids)
