"""1-bit Adam: AdamW at first, then momenta in the place of gradients."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from adts_trainer.weights import load_weights
from support.compression_sums import count_sums, expect_equal_replicas, with_overflow_on_rank_1
from support.onebit_loop import train_onebit
from support.ranks import run_job, spec

pytestmark = pytest.mark.distributed

WARMUP, STEPS = 6, 14
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "ddp": (2, {}),
    "ddp on 3, 2 micro-batches": (3, {"parallelism": {"microbatches": 2}, "training": {"globalBatchSize": 12}}),
    "stage 3": (4, {"zero": {"stage": 3, "shardDegree": 2}}),
    "ddp x tp": (4, {"parallelism": {"tensor": 2, "sequenceParallel": True}}),
    "V": (4, {"parallelism": {"pipeline": 2, "microbatches": 4, "schedule": "ZBVZeroBubble"}, "model": {"layers": 5}}),
    "pp": (4, {"parallelism": {"pipeline": 2, "microbatches": 4}}),
}


def job(world: int, changes: dict[str, Any], **compression: Any) -> dict[str, Any]:
    return spec(
        **{
            **changes,
            "workers": {"processesPerWorker": world},
            "optimizer": {"name": "onebit-adam", "clipNorm": 0.0},
            "compression": {"method": "onebit", "warmupSteps": WARMUP, "minElements": 64, **compression},
            "training": {"steps": STEPS, **changes.get("training", {})},
        }
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_loss_on_the_wire_it_is_the_published_algorithm(layout: str, tmp_path: Path) -> None:
    world, changes = LAYOUTS[layout]
    exact = job(world, changes, minElements=10**9)
    run = run_job(tmp_path, world, exact).expect()
    losses, weights = train_onebit(exact)
    assert run.series("loss") == pytest.approx(losses, abs=1e-12)
    found = load_weights(run.folder / f"{STEPS}-1")
    assert found.keys() == weights.keys()
    assert max(float((found[name] - value).abs().max()) for name, value in weights.items()) <= 1e-12


@pytest.mark.parametrize("layout", LAYOUTS)
def test_replicas_stay_equal_and_learn(layout: str, tmp_path: Path) -> None:
    world, changes = LAYOUTS[layout]
    run = run_job(tmp_path, world, job(world, changes), prepare=count_sums).expect()
    expect_equal_replicas(run)
    assert run.series("loss")[-1] < run.series("loss")[0]


def test_a_resume_is_bitwise(tmp_path: Path) -> None:
    constant = {"name": "onebit-adam", "clipNorm": 0.0, "schedule": {"type": "constant", "warmupSteps": 2}}
    kept = {"checkpoint": {"residual": "perRank"}, "optimizer": constant}
    for name in ("whole", "halted"):
        (tmp_path / name).mkdir()
    whole = run_job(tmp_path / "whole", 2, {**job(2, {}), **kept}).expect()
    run_job(tmp_path / "halted", 2, {**job(2, {"training": {"steps": WARMUP + 3}}), **kept}).expect()
    run = run_job(tmp_path / "halted", 2, {**job(2, {}), **kept}, attempt=2).expect()
    assert f"continue from step {WARMUP + 3}" in run.output
    assert run.series("loss") == whole.series("loss")


def test_an_overflow_leaves_the_momentum_as_it_was(tmp_path: Path) -> None:
    """It comes in step 4, in the warm-up: the variance then freezes a step later."""
    half = {"precision": {"dtype": "fp16", "initialLossScale": 1024}}
    run = run_job(tmp_path, 2, job(2, half), prepare=with_overflow_on_rank_1).expect()
    assert re.search("step 4: the gradient norm is (nan|inf); overflow", run.output), run.output
    assert run.series("loss")[-1] < run.series("loss")[0]
