"""Gaps and verdict: what is near enough to one process, and what is not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adts_trainer.heartbeat import Heartbeat
from adts_trainer.selfcheck import compare
from adts_trainer.selfcheck.cells import Cell
from adts_trainer.selfcheck.compare import Gaps, gap, judge
from adts_trainer.selfcheck.reference import Reference
from adts_trainer.selfcheck.runner import Finished

TRUTH = Reference([4.0, 3.0], [2.0, 1.5], {"weight": torch.tensor([1.0, 2.0], dtype=torch.float64)})
CELL = Cell("ddp", 0, dp=2)
Write = Callable[..., Finished]


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A run with a metrics.jsonl and weights, beside TRUTH; `truth` of a batch in parts is 1e-5 from it."""

    def truth(spec: object, *, uneven: bool, dtype: torch.dtype, parts: int = 1) -> Reference:
        return TRUTH if parts == 1 else replace(TRUTH, losses=[4.0, 3.0 + 1e-5])

    def write(
        losses: list[float | None] = TRUTH.losses,
        norms: list[float | None] = TRUTH.norms,
        weights: dict[str, torch.Tensor] = TRUTH.weights,
    ) -> Finished:
        pairs = zip(losses, norms, strict=True)
        lines = [json.dumps({"loss": loss, "gradient_norm": norm}) + "\n" for loss, norm in pairs]
        (tmp_path / "metrics.jsonl").write_text("".join(lines))
        monkeypatch.setattr(compare, "load_weights", lambda directory: weights)
        return Finished([0, 0], [Heartbeat(), Heartbeat()], tmp_path, "")

    monkeypatch.setattr(compare, "truth", truth)
    return write


def test_equal_runs_pass(finished: Write) -> None:
    result = judge(CELL, finished(), 1.0)
    assert result.passed
    assert result.gaps == Gaps(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": [4.0, 3.0 + 2e-12]},
        {"norms": [2.0 + 2e-12, 1.5]},
        {"weights": {"weight": torch.tensor([1.0, 2.0 + 2e-12], dtype=torch.float64)}},
    ],
    ids=["loss", "norm", "parameters"],
)
def test_each_gap_counts(finished: Write, changes: dict[str, object]) -> None:
    result = judge(CELL, finished(**changes), 1.0)
    assert not result.passed
    assert result.problem == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": [None, 3.0]},  # how metrics.jsonl writes NaN
        {"norms": [2.0, None]},
        {"weights": {"weight": torch.tensor([math.nan, 2.0], dtype=torch.float64)}},
    ],
    ids=["loss", "norm", "parameters"],
)
def test_what_is_no_number_never_passes(finished: Write, changes: dict[str, object]) -> None:
    assert not judge(CELL, finished(**changes), 1.0).passed


def test_a_nan_is_not_forgotten_as_max_would() -> None:
    naive = max(abs(a - b) for a, b in zip([1.0, math.nan], [1.0, 1.0], strict=True))
    assert naive <= compare.EXACT
    assert math.isnan(gap([1.0, math.nan], [1.0, 1.0]))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"losses": [4.0], "norms": [2.0]}, "1 steps were logged, not 2"),
        ({"weights": {}}, "the checkpoint has other parameters than the model: weight"),
        ({"weights": {**TRUTH.weights, "copy": torch.zeros(1)}}, "other parameters than the model: copy"),
    ],
    ids=["steps", "a parameter is missing", "a parameter twice"],
)
def test_what_cannot_be_compared_is_said(finished: Write, changes: dict[str, object], problem: str) -> None:
    result = judge(CELL, finished(**changes), 1.0)
    assert not result.passed
    assert problem in result.problem


def test_a_job_that_does_not_clip_tests_no_clipping(finished: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "truth", lambda spec, **_: replace(TRUTH, norms=[2.0, 0.5]))
    assert "does not clip" in judge(CELL, finished(norms=[2.0, 0.5]), 1.0).problem


@pytest.mark.parametrize(
    ("precision", "loss", "passes"),
    [
        ("fp32", 3.0 + 3.9e-5, True),
        ("fp32", 3.0 + 4.1e-5, False),
        ("bf16", 3.0 + 1.9e-3, True),
        ("bf16", 3.0 + 2.1e-3, False),
        ("fp16", 3.0 + 0.9e-3, True),
        ("fp16", 3.0 + 1.1e-3, False),
    ],
)
def test_bounds_are_those_of_the_format(finished: Write, precision: str, loss: float, passes: bool) -> None:
    """In fp32 they are four times what another order of addition does: here 1e-5 in the loss."""
    assert judge(replace(CELL, precision=precision), finished(losses=[4.0, loss]), 1.0).passed is passes


def test_parameters_are_compared_in_fp64_only(finished: Write) -> None:
    other = {"weight": torch.tensor([1.0, 2.5], dtype=torch.float64)}
    assert judge(replace(CELL, precision="fp32"), finished(weights=other), 1.0).passed


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_that_is_exact_was_not_half_precision(finished: Write, precision: str) -> None:
    result = judge(replace(CELL, precision=precision), finished(), 1.0)
    assert result.problem == f"is as exact as fp32: {precision} had no effect"


def test_a_problem_names_the_error_and_where_ranks_ended() -> None:
    beats = [Heartbeat(phase="failed", step=3, error="lost rank 1"), Heartbeat(phase="training", step=2)]
    run = Finished([64, -9], beats, Path(), "")
    assert run.problem == "lost rank 1; rank 0: 64 at step 3 (failed), rank 1: -9 at step 2 (training)"
    assert Finished([0, 0], beats, Path(), "").problem == ""
    assert "rank 1: None" in Finished([0, None], beats, Path(), "").problem
