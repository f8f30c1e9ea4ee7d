"""Every manifest under `examples/` trains, shortened, as its first lines say."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from support.operator_runs import REAL

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SHORT = ["training.steps=4", "optimizer.schedule.warmupSteps=1", "training.logEverySteps=1"]
SHORTER: dict[str, list[str]] = {
    "quickstart": ["data.evaluation.samples=8"],
    "training": ["data.evaluation.samples=8"],
    "parallel": ["model.hiddenSize=32", "data.sequenceLength=32"],
    "onebit-adam": ["workers={processesPerWorker: 2}", "compression.warmupSteps=2"],
    "gpt2-124m": [
        "training.device=cpu",
        "training.compile=false",
        "workers.gpusPerWorker=2",
        "model.layers=2",
        "model.hiddenSize=48",
        "data.sequenceLength=64",
        "data.evaluation.samples=8",
        "training.globalBatchSize=16",
    ],
}
ONE_POD = ["workers={processesPerWorker: 2}"]
"""As many ranks, and one launcher less to start: tests of `adts run` have pods enough."""
TWO_PODS = [
    "diloco",
    *(
        f"compress-{method}"
        for method in ("auto", "bf16", "fp16", "fp8", "int8", "onebit", "powersgd", "randomk", "topk")
    ),
]
NEEDS_DATA = {"quickstart": "stdlib", "training": "stdlib", "gpt2-124m": "corpus"}
NEEDS_WEIGHTS = {"finetune": "text"}
"""Examples that start from what another one exports."""


def adts(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*REAL, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "examples"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def short(name: str) -> list[str]:
    """Arguments that make an example short."""
    lines = [*SHORT, *SHORTER.get(name, ONE_POD if name in TWO_PODS else [])]
    return [it for line in lines for it in ("--set", line)]


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "examples").glob("*.yaml") if path.stem != "command")
)
def test_example(name: str, tmp_path: Path) -> None:
    if name in NEEDS_DATA:
        out = str(tmp_path / "data" / f"{NEEDS_DATA[name]}.bin")
        prepared = adts("data", "prepare", "docs", "--include", "*.md", "--out", out, "--holdout", "0.2")
        assert prepared.returncode == 0, prepared.stderr
    assignments = short(name)
    if name in NEEDS_WEIGHTS:
        first = NEEDS_WEIGHTS[name]
        before = adts("run", f"examples/{first}.yaml", "--workdir", str(tmp_path), *short(first))
        assert before.returncode == 0, before.stdout + before.stderr
        weights = tmp_path / first / "checkpoints" / "model.safetensors"
        assignments += ["--set", f"checkpoint.initializeFrom={weights}"]
    done = adts("run", f"examples/{name}.yaml", "--workdir", str(tmp_path), *assignments)
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads((tmp_path / name / "job.json").read_text())["status"]
    assert (status["phase"], status["progress"]["step"], status["checkpoint"]["step"]) == ("Succeeded", 4, 4)


def test_the_example_of_a_command(tmp_path: Path) -> None:
    """It has no steps of ours to shorten; torchrun of both workers finds the other."""
    done = adts("run", "examples/command.yaml", "--workdir", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(f"rank {rank} of 4: the sum is 10" in done.stdout for rank in range(4)) == 4


def test_the_list_of_examples_is_complete() -> None:
    listed = (ROOT / "examples" / "README.md").read_text()
    assert [path.name for path in (ROOT / "examples").glob("*.yaml") if f"({path.name})" not in listed] == []


def test_the_commands_after_a_run(tmp_path: Path) -> None:
    """report, sample and export read what a run leaves behind."""
    steps = ["--set", "training.steps=10"]
    assert adts("run", "examples/text.yaml", "--workdir", str(tmp_path), *steps).returncode == 0
    report = adts("report", str(tmp_path / "text"))
    assert (report.returncode, report.stderr) == (0, "")
    assert (tmp_path / "text" / "loss.png").exists()
    sample = adts("sample", str(tmp_path / "text"), "--prompt", "ab", "--tokens", "5")
    assert (sample.returncode, sample.stdout[:2]) == (0, "ab"), sample.stderr
    export = adts("export", str(tmp_path / "text"), "--out", str(tmp_path / "model.safetensors"))
    assert export.returncode == 0, export.stderr
    ours, final = (load_file(path / "model.safetensors") for path in (tmp_path, tmp_path / "text" / "checkpoints"))
    assert ours.keys() == final.keys()
    assert all(np.array_equal(ours[name], final[name]) for name in ours)
