"""Training over several processes equals a plain torch loop in one: parameters, loss and gradient norm in fp64."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from adts_trainer.data.synthetic import SyntheticTokens
from adts_trainer.weights import load_weights
from support.faults import UnevenTargets, uneven_targets
from support.ranks import Finished, run_job, spec
from support.reference import Reference, train_alone

pytestmark = pytest.mark.distributed

BOUND = 1e-12
LLAMA = {"shape": "llama", "keyValueHeads": 2, "tieEmbeddings": False, "dropout": 0.1}

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one process": (1, {}),
    "ddp on 2": (2, {}),
    "ddp on 4": (4, {}),
    "ddp on 2, 4 micro-batches": (2, {"parallelism": {"microbatches": 4}}),
    "ddp on 2, many buckets": (2, {"communication": {"bucketMegabytes": 0.01}}),
    "stage 2 on 2": (2, {"zero": {"stage": 2}}),
    "stage 2 on 4, 2 micro-batches": (4, {"zero": {"stage": 2}, "parallelism": {"microbatches": 2}}),
    "stage 3 on 2": (2, {"zero": {"stage": 3}}),
    "stage 3 on 4": (4, {"zero": {"stage": 3}}),
    "stage 3 on 3, rows that do not divide": (3, {"zero": {"stage": 3}, "training": {"globalBatchSize": 12}}),
    "stage 3 on 1": (1, {"zero": {"stage": 3}}),
    "ddp on 2, recomputed": (2, {"training": {"activationCheckpointing": "full"}}),
    "stage 3 on 2, recomputed, 2 micro-batches": (
        2,
        {
            "zero": {"stage": 3},
            "training": {"activationCheckpointing": "full"},
            "parallelism": {"microbatches": 2},
        },
    ),
    "ddp on 2, llama, untied, dropout": (2, {"model": LLAMA}),
    "stage 2 on 2, llama, untied, dropout, recomputed": (
        2,
        {"zero": {"stage": 2}, "model": LLAMA, "training": {"activationCheckpointing": "full"}},
    ),
}


@pytest.mark.parametrize(("world", "changes"), CASES.values(), ids=CASES.keys())
def test_twenty_clipped_adamw_steps_equal_one_process(world: int, changes: dict[str, Any], tmp_path: Path) -> None:
    job = spec(**changes)
    run = run_job(tmp_path, world, job).expect()
    assert_equal(run, truth(job), job)


@pytest.mark.parametrize(
    ("world", "changes"),
    [(2, {"parallelism": {"microbatches": 4}}), (4, {"zero": {"stage": 3}})],
    ids=["ddp on 2, 4 micro-batches", "stage 3 on 4"],
)
def test_uneven_numbers_of_targets_weigh_every_target_alike(
    world: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    job = spec(**changes)
    run = run_job(tmp_path, world, job, prepare=uneven_targets).expect()
    assert_equal(run, truth(job, uneven=True), job)


def truth(job: dict[str, Any], *, uneven: bool = False) -> Reference:
    """The reference knows nothing of layouts: cases that differ in nothing else share one."""
    seen = {block: job[block] for block in ("model", "data", "optimizer")}
    seen["training"] = {name: job["training"][name] for name in ("steps", "globalBatchSize")}
    return _truth(json.dumps(seen), uneven)


@functools.cache
def _truth(job: str, uneven: bool) -> Reference:
    return train_alone(json.loads(job), UnevenTargets(SyntheticTokens(0, "", 16, 61)) if uneven else None)


def assert_equal(run: Finished, expected: Reference, job: dict[str, Any]) -> None:
    steps = job["training"]["steps"]
    assert len(run.metrics) == steps
    assert min(expected.norms) > job["optimizer"]["clipNorm"], "every step must clip, or clipping is not tested"
    gaps = {
        "loss": max(abs(a - b) for a, b in zip(run.series("loss"), expected.losses, strict=True)),
        "norm": max(abs(a - b) for a, b in zip(run.series("gradient_norm"), expected.norms, strict=True)),
    }
    weights = load_weights(run.folder / f"{steps}-1")
    assert weights.keys() == expected.weights.keys()
    gaps |= {name: (weights[name] - value).abs().max().item() for name, value in expected.weights.items()}
    assert max(gaps.values()) <= BOUND, gaps
