"""Steps that go wrong on one rank are judged alike on all: stop, skip, roll back, or halve the fp16 loss scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adts_api.contract import ExitCode
from adts_trainer.weights import load_weights
from support.ranks import Finished, custom, run_job, spec

pytestmark = pytest.mark.distributed

STEPS = 10


def failing(policy: str, action: str, calls: list[int], **changes: Any) -> dict[str, Any]:
    """A job whose model fails on rank 1 in these of its passes, with a checkpoint every 4 steps."""
    training = {"steps": STEPS, "onDivergence": policy, **changes.pop("training", {})}
    model = custom("Misbehaving", rank=1, calls=calls, action=action)
    return spec(model=model, training=training, checkpoint={"everySteps": 4}, **changes)


def manifest(run: Finished, step: int = STEPS) -> dict[str, Any]:
    return json.loads((run.folder / f"{step}-1" / "manifest.json").read_text())


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_stop_ends_every_rank_at_the_same_step(stage: int, tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, failing("stop", "nan", [4], zero={"stage": stage})).expect(ExitCode.DIVERGED)
    assert len(set(run.errors)) == 1
    assert run.errors[0].startswith("step 4: the gradient norm is nan; lower spec.optimizer.learningRate")


@pytest.mark.parametrize("stage", [0, 3])
def test_skip_leaves_the_step_out_on_every_rank(stage: int, tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, failing("skip", "nan", [6], zero={"stage": stage})).expect()
    assert manifest(run)["skippedSteps"] == [5]
    assert manifest(run)["consumedSamples"] == STEPS * 16
    assert run.series("step") == list(range(1, STEPS + 1))


def test_rollback_ends_where_skipping_ends(tmp_path: Path) -> None:
    """Going back to step 4 and leaving out step 5 on the way is the same as having left it out at once."""
    skipped = run_job(tmp_path / "skip", 2, failing("skip", "nan", [6])).expect()
    rolled = run_job(tmp_path / "rollback", 2, failing("rollback", "nan", [6])).expect()
    assert "rolled back to step 4" in rolled.output
    assert manifest(rolled)["skippedSteps"] == [5]
    ours, theirs = (load_weights(run.folder / f"{STEPS}-1") for run in (rolled, skipped))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    logged = [step for step in rolled.series("step") if step > 4]
    assert logged == [5, 7, 8, 9, 10]


def test_rollback_without_a_checkpoint_stops(tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, failing("rollback", "nan", [2])).expect(ExitCode.DIVERGED)
    assert "there is no checkpoint yet to roll back to" in run.errors[0]


def test_a_loss_spike_is_a_divergence_where_it_is_looked_for(tmp_path: Path) -> None:
    job = failing("skip", "spike", [7], training={"lossSpikeFactor": 3.0})
    run = run_job(tmp_path, 2, job).expect()
    assert manifest(run)["skippedSteps"] == [6]
    assert len(manifest(run)["recentLosses"]) == STEPS - 1
    ignored = run_job(tmp_path / "ignored", 2, failing("skip", "spike", [7])).expect()
    assert manifest(ignored)["skippedSteps"] == []


@pytest.mark.parametrize(("world", "stage"), [(1, 0), (2, 0), (2, 2), (2, 3)])
def test_an_overflow_on_one_rank_halves_the_scale_of_all_and_drops_the_step(
    world: int, stage: int, tmp_path: Path
) -> None:
    job = failing("stop", "overflow", [3, 5], zero={"stage": stage}, precision={"dtype": "fp16"})
    job["model"]["arguments"]["rank"] = world - 1
    run = run_job(tmp_path, world, job).expect()
    state = manifest(run)
    assert state["scaler"] == {"active": True, "scale": 65536 / 4, "goodSteps": STEPS - 5}
    assert state["skippedSteps"] == []
    norms = run.series("gradient_norm")
    assert [step for step, norm in enumerate(norms, start=1) if norm is None] == [3, 5]


def test_an_overflow_that_no_scale_cures_is_a_divergence(tmp_path: Path) -> None:
    job = failing("stop", "overflow", list(range(1, 99)), precision={"dtype": "fp16", "initialLossScale": 4.0})
    run = run_job(tmp_path, 2, job).expect(ExitCode.DIVERGED)
    assert run.errors[0].startswith("step 4: ")  # 4, 2 and 1 were tried
