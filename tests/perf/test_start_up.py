"""Time from the command to the first optimizer step, with `adts run` and without it. Printed, never asserted."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import pytest

from support.operator_runs import REAL, Workplace

RUNS = 3
MANIFEST = """\
apiVersion: adts.dev/v1alpha1
kind: DistributedTraining
metadata: {name: demo}
spec:
  workers: {replicas: 1, processesPerWorker: 2}
  model: {type: gpt, layers: 4, hiddenSize: 128, heads: 4, vocabularySize: 256}
  data: {type: synthetic, sequenceLength: 128}
  training: {steps: 3, globalBatchSize: 4, device: cpu, logEverySteps: 1}
"""


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_seconds_to_the_first_step(processes: int, tmp_path: Path) -> None:
    seconds = []
    for number in range(RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        place = Workplace(folder, REAL, MANIFEST)
        begin = time.perf_counter()
        with place.started("run", "training.yaml", "--set", f"workers.processesPerWorker={processes}") as process:
            assert process.stdout is not None
            next(line for line in process.stdout if "step 1/3" in line)
            seconds.append(time.perf_counter() - begin)
            process.communicate()
            assert process.returncode == 0
    print(f"\nadts run, {processes} processes: first step {median(seconds):.1f} s after the command (of {RUNS} runs)")
