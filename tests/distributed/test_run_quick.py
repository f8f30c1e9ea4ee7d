"""`adts run` with the real launcher and trainer, as small as they come."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.operator_runs import REAL, Workplace, is_gone, trains

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

MANIFEST = """\
apiVersion: adts.dev/v1alpha1
kind: DistributedTraining
metadata: {name: demo}
spec:
  workers: {replicas: 2, processesPerWorker: 1}
  model: {type: mlp, inputSize: 4, outputSize: 2, hiddenSize: 16, layers: 1}
  data: {type: synthetic}
  training: {steps: 60, globalBatchSize: 8, device: cpu, logEverySteps: 1, tensorboard: false}
  checkpoint: {everySteps: 20}
"""


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path, REAL, MANIFEST)


def history(place: Workplace) -> dict[int, tuple[int, float]]:
    """By step, a digest of the ids of its samples and its loss."""
    lines = (place.folder / "runs/demo/checkpoints/metrics.jsonl").read_text().splitlines()
    return {row["step"]: (row["samples_digest"], row["loss"]) for row in map(json.loads, lines) if "loss" in row}


def ranks_of(launcher: int) -> list[int]:
    """PIDs of the training processes of a pod: its launcher's grandchildren, by way of the fork server."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return [pid for pid, parent in parents.items() if parents.get(parent) == launcher]


def test_two_workers_train_to_the_end(place: Workplace) -> None:
    done = place.adts("run", "training.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    status = place.status()
    assert (status["phase"], status["progress"]["step"], status["checkpoint"]["step"]) == ("Succeeded", 60, 60)
    assert status["progress"]["loss"] == pytest.approx(history(place)[60][1], rel=1e-6)
    assert "[adts] AllWorkersRunning: all 2 workers of attempt 1 run" in done.stdout
    assert re.search(r"demo-0-1 \[rank 0\] step 60/60", done.stdout)


def test_bad_data_ends_with_its_code_and_one_message(place: Workplace) -> None:
    model = "model={type: gpt, layers: 1, hiddenSize: 16, heads: 2}"
    done = place.adts("run", "training.yaml", "--set", model, "--set", "data={type: tokens, path: /data/missing.bin}")
    assert done.returncode == 4
    assert str(place.folder / "runs/data/missing.bin") in done.stderr
    assert "Traceback" not in done.stderr
    assert place.status()["attempt"] == 1


def test_a_killed_run_resumes_with_the_same_samples_and_losses(
    place: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    long = ("run", "training.yaml", "--set", "training.steps=300")
    whole = Workplace(tmp_path_factory.mktemp("whole"), REAL, MANIFEST)
    assert whole.adts(*long).returncode == 0
    with place.started(*long) as process:
        place.wait_for(lambda status: trains(45)(status) and status["checkpoint"]["step"] >= 40)
        pids = place.pids()
        for pid in pids:
            os.killpg(pid, signal.SIGKILL)
        process.kill()
        process.communicate()
    done = place.adts(*long)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(is_gone(pid) for pid in pids)
    assert place.status()["attempt"] == 2
    assert len(history(whole)) == 300
    assert history(place) == history(whole)


def test_a_killed_process_is_restarted_in_place(place: Workplace, measured: Callable[[str], None]) -> None:
    """The deadline is five seconds to the next optimizer step; the test waits four times as long."""
    with place.started("run", "training.yaml", "--set", "training.steps=100000") as process:
        place.wait_for(trains(45))
        victim = ranks_of(place.pids()[0])[0]  # rank 0, which writes the metrics
        killed_at = time.time()
        os.kill(victim, signal.SIGKILL)
        while not (steps := steps_after(place, killed_at)) and time.time() < killed_at + 20:
            time.sleep(0.02)
        status = place.wait_for(lambda status: status["rounds"] == 1 and trains(1)(status))
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert steps, "no step within 20 s of the kill"
    measured(f"restart in place: the next optimizer step {steps[0] - killed_at:.1f} s after SIGKILL (deadline 5 s)")
    assert (status["attempt"], status["failures"]) == (1, 0)
    [restart] = status["restarts"]
    assert (restart["scope"], restart["reason"]) == ("round", "Signal9")
    assert "RoundRestarted: demo-0-1: Signal9" in out
    assert process.returncode == 130


def steps_after(place: Workplace, instant: float) -> list[float]:
    """Unix times of the steps that were logged after an instant."""
    lines = (place.folder / "runs/demo/checkpoints/metrics.jsonl").read_text().splitlines()
    with contextlib.suppress(json.JSONDecodeError):  # a line that is being written
        return [row["time"] for row in map(json.loads, lines) if row.get("time", 0.0) > instant]
    return []
