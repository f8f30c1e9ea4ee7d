"""Step time of the `ddp` engine against a bare torch DDP loop: same model, same processes, interleaved in one run.

Prints a ratio and asserts nothing about it: machines are shared and noisy. Aim: <= 1.03.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest
import yaml

from perf.step_time import run_rank
from support.ranks import FORKSERVER, Place, free_port

MODELS = {
    "0.8M, 2x512 tokens": ({"layers": 4, "hiddenSize": 128, "heads": 4}, 8, 128),
    "3.2M, 2x1024 tokens": ({"layers": 4, "hiddenSize": 256, "heads": 4}, 8, 256),
}


@pytest.mark.parametrize("name", MODELS)
def test_step_time_against_bare_ddp(name: str, tmp_path: Path) -> None:
    model, batch, length = MODELS[name]
    config = tmp_path / "training.yaml"
    spec = {
        "workers": {"processesPerWorker": 2},
        "model": {"type": "gpt", "shape": "llama", "vocabularySize": 256, **model},
        "data": {"type": "synthetic", "sequenceLength": length},
        "training": {"steps": 10**6, "globalBatchSize": batch, "device": "cpu"},
        "checkpoint": {"path": str(tmp_path / "checkpoints")},
    }
    head = {"apiVersion": "adts.dev/v1alpha1", "kind": "DistributedTraining", "metadata": {"name": "bench"}}
    config.write_text(yaml.safe_dump({**head, "spec": spec}))
    place = Place(tmp_path, free_port())
    ranks = [FORKSERVER.Process(target=run_rank, args=(place.context(n, 2), str(config))) for n in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(300)
        assert rank.exitcode == 0
    seconds = json.loads((tmp_path / "times.json").read_text())
    ratios = sorted(ours / bare for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True))
    bare, ours = (median(seconds[loop]) * 1e3 for loop in ("bare", "ours"))
    print(
        f"\nddp step, {name}: bare {bare:.1f} ms, ours {ours:.1f} ms, ratio {median(ratios):.3f} "
        f"(quartiles {ratios[len(ratios) // 4]:.3f} to {ratios[-len(ratios) // 4]:.3f})"
    )
