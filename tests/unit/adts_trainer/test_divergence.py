"""The verdict on a step: a table, and what holds for every step."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adts_trainer.divergence import PATIENCE, Evidence, Policy, Verdict, judge, problem
from adts_trainer.train import divergence_message

GOOD = Evidence(
    step=20,
    gradient_norm=1.0,
    loss=2.0,
    recent=[2.0] * 50,
    skipped=frozenset(),
    checkpoint_step=10,
    scaler_absorbs=False,
)
NAN = replace(GOOD, gradient_norm=math.nan)
SPIKE = replace(GOOD, loss=6.1)


@pytest.mark.parametrize(
    ("policy", "evidence", "verdict"),
    [
        (Policy("stop", 3.0), GOOD, Verdict.APPLY),
        (Policy("stop"), NAN, Verdict.STOP),
        (Policy("skip"), NAN, Verdict.SKIP),
        (Policy("rollback"), NAN, Verdict.ROLLBACK),
        (Policy("stop"), replace(GOOD, gradient_norm=math.inf), Verdict.STOP),
        (Policy("stop"), replace(GOOD, loss=math.nan), Verdict.STOP),
        (Policy("rollback"), replace(NAN, checkpoint_step=None), Verdict.STOP),
        (Policy("skip", 3.0), SPIKE, Verdict.SKIP),
        (Policy("skip", 3.1), SPIKE, Verdict.APPLY),
        (Policy("skip", 0.0), replace(GOOD, loss=1e9), Verdict.APPLY),
        (Policy("skip", 3.0), replace(SPIKE, recent=[]), Verdict.APPLY),
        (Policy("skip", 3.0), replace(SPIKE, recent=[9.0] * 50 + [2.0] * 100), Verdict.SKIP),
        (Policy("stop"), replace(NAN, loss=None), Verdict.STOP),
        (Policy("stop"), replace(GOOD, loss=None), Verdict.APPLY),
        (Policy("stop"), replace(NAN, scaler_absorbs=True), Verdict.OVERFLOW),
        (Policy("skip", 3.0), replace(SPIKE, scaler_absorbs=True), Verdict.SKIP),
        (Policy("skip"), replace(NAN, skipped=range(20 - PATIENCE, 20)), Verdict.STOP),
        (Policy("skip"), replace(NAN, skipped=range(20 - PATIENCE + 1, 20)), Verdict.SKIP),
        (Policy("skip"), replace(NAN, skipped=range(19)), Verdict.SKIP),
        (Policy("rollback"), replace(NAN, skipped=range(10, 10 + PATIENCE)), Verdict.STOP),
        (Policy("rollback"), replace(NAN, skipped=range(10)), Verdict.ROLLBACK),
    ],
    ids=[
        "good",
        "nan stops",
        "nan is skipped",
        "nan rolls back",
        "infinite norm",
        "nan loss",
        "no checkpoint",
        "spike",
        "below the factor",
        "spikes not looked for",
        "first step",
        "only the last 100 count",
        "nan without loss",
        "good without loss",
        "fp16 overflow",
        "a spike is no overflow",
        "too many in a row",
        "one less",
        "many, not in a row",
        "too many since the checkpoint",
        "many before the checkpoint",
    ],
)
def test_verdicts(policy: Policy, evidence: Evidence, verdict: Verdict) -> None:
    assert judge(policy, evidence) is verdict


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (NAN, "the gradient norm is nan"),
        (replace(GOOD, loss=math.inf), "the loss is inf"),
        (SPIKE, "the loss 6.1 is more than 3 times the recent mean 2"),
        (GOOD, ""),
    ],
    ids=["norm", "loss", "spike", "nothing"],
)
def test_the_problem_is_said_in_words(evidence: Evidence, words: str) -> None:
    assert problem(Policy("stop", 3.0), evidence) == words


@given(
    norm=st.floats(allow_nan=True, allow_infinity=True),
    loss=st.none() | st.floats(allow_nan=True, allow_infinity=True),
    recent=st.lists(st.floats(0, 10), max_size=5),
    action=st.sampled_from(["stop", "skip", "rollback"]),
    factor=st.floats(0, 5),
    absorbs=st.booleans(),
    skipped=st.frozensets(st.integers(0, 20)),
)
def test_a_step_is_applied_exactly_if_nothing_is_wrong(
    norm: float,
    loss: float | None,
    recent: list[float],
    action: str,
    factor: float,
    absorbs: bool,
    skipped: frozenset[int],
) -> None:
    policy = Policy(action, factor)
    evidence = replace(GOOD, gradient_norm=norm, loss=loss, recent=recent, scaler_absorbs=absorbs, skipped=skipped)
    verdict = judge(policy, evidence)
    assert (verdict is Verdict.APPLY) == (problem(policy, evidence) == "")
    assert math.isfinite(norm) or verdict is not Verdict.APPLY
    assert verdict.name.lower() in {"apply", "overflow", "stop", action}


@pytest.mark.parametrize(
    ("policy", "has_checkpoint", "advice"),
    [
        ("stop", True, "or set spec.training.onDivergence to skip or rollback"),
        ("skip", True, f"the {PATIENCE} steps before it were left out already"),
        ("rollback", True, f"{PATIENCE} steps since the last checkpoint were left out already"),
        ("rollback", False, "there is no checkpoint yet to roll back to; set spec.checkpoint.everySteps lower"),
    ],
)
def test_the_advice_is_what_was_not_tried(policy: str, has_checkpoint: bool, advice: str) -> None:
    message = divergence_message(policy, 20, "the loss is nan", has_checkpoint=has_checkpoint)
    assert message.startswith("step 21: the loss is nan; ")
    assert advice in message
    assert "lower spec.optimizer.learningRate" in message
    assert ("onDivergence" in message) == (policy == "stop")
