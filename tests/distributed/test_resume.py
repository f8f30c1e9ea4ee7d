"""A resumed run goes on as if nothing had happened: same samples, same losses, at any world size and engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adts_trainer.weights import load_weights
from support.ranks import Finished, custom, run_job, spec

pytestmark = pytest.mark.distributed

TENSOR: dict[str, Any] = {"parallelism": {"tensor": 2, "sequenceParallel": True}}
PIPELINE: dict[str, Any] = {"parallelism": {"pipeline": 2, "microbatches": 2}}
CUBE: dict[str, Any] = {"parallelism": {"pipeline": 2, "tensor": 2, "microbatches": 4}, "zero": {"stage": 1}}
HALF, WHOLE = 6, 12
"""Steps before the interruption and in all. The schedule is that of the whole run in both."""


def steps(number: int, **changes: Any) -> dict[str, Any]:
    """A job of `number` steps whose learning rate does not depend on that number."""
    changes["optimizer"] = {"schedule": {"type": "constant", "warmupSteps": 2}, **changes.get("optimizer", {})}
    changes["training"] = {"steps": number, **changes.get("training", {})}
    return spec(**changes)


def interrupted(folder: Path, first: tuple[int, dict[str, Any]], second: tuple[int, dict[str, Any]]) -> Finished:
    """A run of HALF steps in the first layout, continued to WHOLE in the second."""
    run_job(folder, first[0], steps(HALF, **first[1])).expect()
    return run_job(folder, second[0], steps(WHOLE, **second[1]), attempt=2).expect()


@pytest.mark.parametrize(
    ("world", "changes"),
    [
        (2, {"precision": {"dtype": "fp32"}}),
        (4, {"precision": {"dtype": "fp32"}}),
        (3, {"precision": {"dtype": "fp32"}, "zero": {"stage": 3}, "training": {"globalBatchSize": 12}}),
        (2, {"precision": {"dtype": "fp16", "lossScaleInterval": 4}, "zero": {"stage": 2}}),
        (2, {"precision": {"dtype": "fp32"}, "optimizer": {"name": "sgd"}}),
    ],
    ids=["ddp on 2", "ddp on 4", "stage 3 on 3", "stage 2 on 2 in fp16", "sgd"],
)
def test_at_the_same_layout_a_resumed_run_is_bitwise_equal(world: int, changes: dict[str, Any], tmp_path: Path) -> None:
    whole = run_job(tmp_path / "whole", world, steps(WHOLE, **changes)).expect()
    halves = interrupted(tmp_path / "halves", (world, changes), (world, changes))
    assert_bitwise_equal(halves, whole)


def test_a_users_dropout_draws_the_same_numbers_after_a_resume(tmp_path: Path) -> None:
    job = {"model": custom("Tokens", dropout=0.3)}
    whole = run_job(tmp_path / "whole", 2, steps(WHOLE, **job)).expect()
    assert_bitwise_equal(interrupted(tmp_path / "halves", (2, job), (2, job)), whole)


def test_a_rerun_is_bitwise_equal(tmp_path: Path) -> None:
    runs = [run_job(tmp_path / name, 4, steps(HALF, precision={"dtype": "fp32"})).expect() for name in "ab"]
    assert [run.series("loss") for run in runs[:1]] == [run.series("loss") for run in runs[1:]]
    assert_same_weights(*runs, HALF)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, {}), (4, {"zero": {"stage": 3}})),
        ((4, {"zero": {"stage": 3}}), (1, {})),
        ((1, {}), (2, {"zero": {"stage": 2}, "parallelism": {"microbatches": 2}})),
        ((3, {"zero": {"stage": 2}, "training": {"globalBatchSize": 12}}), (2, {"training": {"globalBatchSize": 12}})),
        ((4, TENSOR), (2, PIPELINE)),
        ((4, {**PIPELINE, "zero": {"stage": 3}}), (4, {**TENSOR, "zero": {"stage": 3}})),
        ((8, CUBE), (1, {})),
        ((1, {}), (8, CUBE)),
    ],
    ids=[
        "ddp 2 to stage 3 on 4",
        "stage 3 on 4 to 1",
        "1 to stage 2 on 2",
        "stage 2 on 3 to ddp 2",
        "dp2 x tp2 to pp2",
        "pp2 x dp2 stage 3 to tp2 x dp2 stage 3",
        "pp2 x dp2 x tp2 stage 1 to 1",
        "1 to pp2 x dp2 x tp2 stage 1",
    ],
)
def test_another_world_size_and_engine_sees_the_same_samples_and_losses(
    first: tuple[int, dict[str, Any]], second: tuple[int, dict[str, Any]], tmp_path: Path
) -> None:
    whole = run_job(tmp_path / "whole", 1, steps(WHOLE, training=first[1].get("training", {}))).expect()
    resumed = interrupted(tmp_path / "resumed", first, second)
    assert resumed.series("samples_digest") == whole.series("samples_digest")
    gaps = [abs(a - b) for a, b in zip(resumed.series("loss"), whole.series("loss"), strict=True)]
    assert max(gaps) <= 1e-12
    weights, expected = (load_weights(next(run.folder.glob(f"{WHOLE}-*"))) for run in (resumed, whole))
    assert max((weights[name] - value).abs().max().item() for name, value in expected.items()) <= 1e-12


def test_another_batch_size_continues_where_the_samples_ended(tmp_path: Path) -> None:
    run_job(tmp_path, 2, steps(HALF)).expect()
    resumed = run_job(tmp_path, 2, steps(9, training={"globalBatchSize": 32}), attempt=2).expect()
    straight = run_job(tmp_path / "straight", 1, steps(WHOLE)).expect()
    pairs = [straight.series("samples_digest")[at : at + 2] for at in (HALF, HALF + 2, HALF + 4)]
    assert resumed.series("samples_digest")[HALF:] == [sum(pair) for pair in pairs]


def test_metrics_continue_without_gap_or_repetition(tmp_path: Path) -> None:
    job = steps(WHOLE, checkpoint={"everySteps": 5})
    run_job(tmp_path, 2, steps(8, checkpoint={"everySteps": 5})).expect()
    folder = tmp_path / "checkpoints"
    (folder / "latest").write_text('{"directory": "5-1"}')  # as if killed before the last checkpoint
    run = run_job(tmp_path, 2, job, attempt=2).expect()
    assert run.series("step") == list(range(1, WHOLE + 1))
    assert run.heartbeats[0].checkpoint_step == WHOLE
    assert run.heartbeats[1].phase == "done"


def assert_bitwise_equal(run: Finished, expected: Finished) -> None:
    for name in ("loss", "gradient_norm", "learning_rate", "samples_digest"):
        assert run.series(name) == expected.series(name), name
    assert_same_weights(run, expected, WHOLE)


def assert_same_weights(run: Finished, expected: Finished, step: int) -> None:
    weights, truth = (load_weights(next(each.folder.glob(f"{step}-*"))) for each in (run, expected))
    assert weights.keys() == truth.keys()
    assert all(torch.equal(weights[name], value) for name, value in truth.items())
