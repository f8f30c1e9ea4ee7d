"""`adts run` where something ends at an odd moment: told to stop while it starts, code 0 too early, nobody listens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.operator_runs import REAL, Workplace

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

MANIFEST = """\
apiVersion: adts.dev/v1alpha1
kind: DistributedTraining
metadata: {name: demo}
spec:
  model: {type: mlp, inputSize: 4, outputSize: 2, hiddenSize: 8, layers: 1}
  data: {type: synthetic}
  training: {steps: 30, globalBatchSize: 4, device: cpu, tensorboard: false, logEverySteps: 1}
  runPolicy: {backoffLimit: 0, gracePeriodSeconds: 60}
"""

LEAVER = """\
import os
from torch import nn

class Leaver(nn.Embedding):
    calls = 0

    def forward(self, tokens):
        Leaver.calls += 1
        if Leaver.calls == 3:
            os._exit(0)
        return super().forward(tokens)

def build():
    return Leaver(16, 16)
"""


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path, REAL, MANIFEST)


@pytest.mark.parametrize("delay", [0.0, 0.7, 1.4], ids=["at once", "soon", "later"])
def test_a_stop_while_it_starts_is_heard(delay: float, place: Workplace) -> None:
    with place.started("run", "training.yaml", "--set", "training.steps=1000000") as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "status at" in line)
        time.sleep(delay)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=100)
    assert process.returncode == 130
    assert time.monotonic() - begin < 20
    status = place.status()
    assert status["checkpoint"]["step"] == status["progress"]["step"]  # what was done is saved


def test_a_process_that_exits_with_0_too_early_has_failed(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.folder / "leaver.py").write_text(LEAVER)
    monkeypatch.setenv("PYTHONPATH", str(place.folder))
    model = "model={type: custom, factory: 'leaver:build', vocabularySize: 16}"
    done = place.adts("run", "training.yaml", "--set", model)
    assert done.returncode != 0, done.stdout
    assert "exited with code 0 before its last step" in done.stderr
    assert place.status()["phase"] == "Failed"


def test_training_goes_on_when_nobody_reads(place: Workplace) -> None:
    command = " ".join(f"'{word}'" for word in [*REAL, "run", "training.yaml"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -n 2"],
        cwd=place.folder,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status = json.loads((place.folder / "runs/demo/job.json").read_text())["status"]
    assert (status["phase"], status["checkpoint"]["step"]) == ("Succeeded", 30)
