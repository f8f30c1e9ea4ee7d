"""The held-out loss is the mean over all targets, whatever the number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from adts_api.contract import ExitCode
from adts_api.training import Data
from adts_trainer.data.memmap import Sidecar, open_token_files, write_sidecar
from adts_trainer.weights import find_checkpoint, load_model
from support.faults import UnevenTargets, uneven_targets
from support.ranks import run_job, spec

pytestmark = pytest.mark.distributed

SAMPLES = 21
"""Divides by none of the world and batch sizes."""


BY_DEEPSPEED: dict[str, Any] = {"precision": {"dtype": "fp32"}, "zero": {"engine": "deepspeed", "stage": 1}}


@pytest.mark.parametrize(
    ("world", "changes"),
    [
        (1, {}),
        (2, {}),
        (3, {"zero": {"stage": 3}, "training": {"globalBatchSize": 12}}),
        (2, {"zero": {"stage": 2}, "parallelism": {"microbatches": 4}}),
        (4, {"zero": {"stage": 3}}),
        (2, {**BY_DEEPSPEED, "parallelism": {"microbatches": 2}}),
        (2, {**BY_DEEPSPEED, "zero": {"engine": "deepspeed", "stage": 3}}),
        (4, {**BY_DEEPSPEED, "parallelism": {"pipeline": 2, "microbatches": 2}}),
    ],
    ids=[
        "alone",
        "ddp",
        "stage 3 on 3",
        "stage 2 on 2",
        "stage 3 on 4",
        "deepspeed, stage 1",
        "deepspeed, stage 3",
        "deepspeed, pipeline x data",
    ],
)
def test_the_held_out_loss_is_that_of_the_saved_model(world: int, changes: dict[str, Any], tmp_path: Path) -> None:
    changes["training"] = {"steps": 6, **changes.get("training", {})}
    data = token_files(tmp_path, everySteps=2, samples=SAMPLES)
    job = spec(data=data, checkpoint={"everySteps": 2, "keep": 9}, model={"dropout": 0.2}, **changes)
    run = run_job(tmp_path, world, job, prepare=uneven_targets).expect()
    assert list(run.evaluations) == [2, 4, 6]
    held_out = UnevenTargets(open_token_files(Data.model_validate(data), data["evaluation"]["path"], 61))
    allowed = 1e-6 if "precision" in changes else 1e-12
    for step, loss in run.evaluations.items():
        assert loss == pytest.approx(loss_of(run.folder / f"{step}-1", held_out), abs=allowed)
    assert {beat.evaluation_loss for beat in run.heartbeats} == {run.evaluations[6]}


def test_evaluating_changes_nothing_in_the_training(tmp_path: Path) -> None:
    data = token_files(tmp_path, everySteps=1, samples=5)
    for stage in (0, 2):
        job = {"zero": {"stage": stage}, "training": {"steps": 5}}
        with_it = run_job(tmp_path / f"with-{stage}", 2, spec(data=data, **job)).expect()
        without = run_job(tmp_path / f"without-{stage}", 2, spec(data={**data, "evaluation": {}}, **job)).expect()
        assert with_it.series("loss") == without.series("loss")


def token_files(folder: Path, **evaluation: Any) -> dict[str, Any]:
    """`spec.data` for random tokens below 61, and others held out."""
    generator = np.random.default_rng(0)
    for name, count in (("train", 4000), ("held-out", 500)):
        generator.integers(0, 61, count, dtype=np.uint8).tofile(folder / f"{name}.bin")
    held_out = {"path": str(folder / "held-out.bin"), **evaluation}
    return {
        "type": "tokens",
        "path": str(folder / "train.bin"),
        "tokenType": "uint8",
        "sequenceLength": 16,
        "evaluation": held_out,
    }


def loss_of(directory: Path, held_out: UnevenTargets) -> float:
    model = load_model(find_checkpoint(directory))
    ids = np.arange(SAMPLES) * len(held_out) // SAMPLES
    batch = held_out.batch(ids, np.zeros_like(ids))
    with torch.no_grad():
        logits = model(batch.inputs, batch.keys)
    return cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).item()


@pytest.mark.parametrize("described", [False, True], ids=["without .json", "with its own .json"])
def test_held_out_ids_outside_the_training_vocabulary_end_the_start(described: bool, tmp_path: Path) -> None:
    data = token_files(tmp_path)
    write_sidecar(tmp_path / "train.bin", Sidecar("uint8", 61, 4000, "bytes"))
    tokens = np.full(500, 99, dtype=np.uint8)
    tokens.tofile(tmp_path / "held-out.bin")
    if described:
        write_sidecar(tmp_path / "held-out.bin", Sidecar("uint8", 256, 500, "bytes"))
    job = spec(data=data, model={"vocabularySize": 0}, training={"steps": 2})
    run = run_job(tmp_path / "run", 2, job).expect(ExitCode.BAD_DATA)
    assert [error for error in run.errors if "token id 99 is outside the vocabulary of 61 ids" not in error] == []
    assert not (run.folder / "metrics.jsonl").exists()
