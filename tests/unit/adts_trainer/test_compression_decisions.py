"""What `compression: {method: auto}` decides from numbers: what is tried, what is kept, when it looks again."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adts_trainer.communication.decisions import (
    CHECK_STEPS,
    MEASURED_STEPS,
    RETRY_STEPS,
    SETTLING_STEPS,
    Decisions,
    Measured,
    Phase,
    choose,
    shortlist,
)
from adts_trainer.communication.prediction import MILDEST_FIRST, NONE

SLOW = {"none": 1.6, "fp16": 0.97, "bf16": 0.95, "int8": 0.6, "onebit": 0.5, "powersgd": 0.09, "topk": 0.5}
FAST = {"none": 0.02, "fp16": 0.09, "bf16": 0.05, "int8": 0.07, "onebit": 0.1, "powersgd": 0.09, "topk": 0.08}

SHORTLISTS = {
    "nothing is hidden: the fastest by far": (SLOW, 1.6, ("powersgd",)),
    "two are close": ({**SLOW, "topk": 0.1}, 1.6, ("powersgd", "topk")),
    "the mildest of equally fast ones, and the fastest": ({**SLOW, "onebit": 0.12}, 1.6, ("onebit", "powersgd")),
    "half is hidden, and int8 hides all of itself": (SLOW, 0.8, ("int8", "powersgd")),
    "most is hidden: the mildest of all is enough": (SLOW, 0.3, ("fp16", "powersgd")),
    "no method is faster": (FAST, 0.02, ()),
    "all are equal, as where nothing may be compressed": (dict.fromkeys(SLOW, 0.1), 0.1, ()),
    "more was waited than predicted": (SLOW, 5.0, ("powersgd", "onebit")),
}


@pytest.mark.parametrize(("predicted", "exposed", "tried"), SHORTLISTS.values(), ids=SHORTLISTS)
def test_what_is_worth_a_trial(predicted: dict[str, float], exposed: float, tried: tuple[str, ...]) -> None:
    assert shortlist(predicted, exposed) == tried


CHOICES = {
    "much faster": ({"none": 2.0, "powersgd": 0.5}, "powersgd"),
    "as fast as none within the noise": ({"none": 1.0, "powersgd": 0.98}, "none"),
    "slower than none": ({"none": 1.0, "int8": 1.5, "topk": 1.1}, "none"),
    "about equally fast: the mild one": ({"none": 1.0, "int8": 0.51, "topk": 0.5}, "int8"),
    "the mild one is not as fast": ({"none": 1.0, "int8": 0.6, "topk": 0.5}, "topk"),
}


@pytest.mark.parametrize(("seconds", "chosen"), CHOICES.values(), ids=CHOICES)
def test_the_mildest_of_the_fastest_is_kept(seconds: dict[str, float], chosen: str) -> None:
    assert choose(seconds) == chosen


def conclude(decisions: Decisions, steps: dict[str, Measured], first: float = 0.0) -> Phase:
    """The phase after one in which every step of a method costs the same, but the first after a change `first` more."""
    methods = decisions.phase.methods
    changed = [number == 0 or methods[number - 1] != method for number, method in enumerate(methods)]
    own = [steps[method] for method in methods]
    return decisions.conclude(
        [Measured(it.step_seconds + first * new, it.exposed_seconds) for it, new in zip(own, changed, strict=True)]
    )


SLOW_STEPS = {"none": Measured(2.0, 1.6), "powersgd": Measured(0.5, 0.1)}


def tried(predicted: dict[str, float] = SLOW) -> Decisions:
    """One whose first trial is over."""
    decisions = Decisions(predicted)
    conclude(decisions, SLOW_STEPS)
    conclude(decisions, SLOW_STEPS)
    return decisions


def test_a_trial_compares_with_none_and_leaves_out_first_steps() -> None:
    decisions = Decisions(SLOW)
    assert set(decisions.phase.methods) == {NONE}
    trial = conclude(decisions, SLOW_STEPS)
    block = SETTLING_STEPS + MEASURED_STEPS
    assert trial.methods == ((NONE,) * block + ("powersgd",) * block) * 2
    kept = conclude(decisions, SLOW_STEPS, first=100.0)
    assert kept.methods == ("powersgd",) * CHECK_STEPS
    assert "powersgd: the median step took 2 s with none, 0.5 s with powersgd" in kept.said


def test_a_lucky_round_is_not_enough() -> None:
    """The median over both rounds would take what was faster in the one only in which the machine was busy for none."""
    decisions = Decisions(SLOW)
    conclude(decisions, SLOW_STEPS)
    half = len(decisions.phase.methods) // 2
    busy = [
        Measured(9.0 if method == NONE and number < half else 2.0, 1.0)
        for number, method in enumerate(decisions.phase.methods)
    ]
    naive = choose({NONE: (9.0 + 2.0) / 2, "powersgd": 2.0})
    assert naive == "powersgd"
    assert decisions.conclude(busy).methods[0] == NONE


@pytest.mark.parametrize(
    ("predicted", "none", "why"),
    [
        (SLOW, Measured(2.0, 0.05), "gradients cost 0.05 s of a step of 2 s"),
        (FAST, Measured(0.1, 0.02), "no method is predicted to exchange gradients faster"),
    ],
    ids=["hidden", "fast link"],
)
def test_without_hope_there_is_no_trial(predicted: dict[str, float], none: Measured, why: str) -> None:
    kept = conclude(Decisions(predicted), {NONE: none})
    assert kept.methods == (NONE,) * CHECK_STEPS
    assert why in kept.said


CHANGES = {
    "as in the trial": (Measured(0.5, 0.1), False),
    "40 % more": (Measured(0.54, 0.14), False),
    "five times as long": (Measured(0.9, 0.5), True),
    "the link became fast": (Measured(0.4, 0.0), True),
    "three times as much of next to nothing": (Measured(20.0, 0.3), False),
}


@pytest.mark.parametrize(("now", "looks"), CHANGES.values(), ids=CHANGES)
def test_it_measures_anew_when_waits_differ_and_not_too_often(now: Measured, looks: bool) -> None:
    decisions, steps = tried(), 0
    while decisions.phase.kind == "kept" and steps < 2 * RETRY_STEPS:
        steps += CHECK_STEPS
        conclude(decisions, {"powersgd": now})
    assert decisions.phase.probes == looks
    assert (steps == RETRY_STEPS) == looks
    assert set(decisions.phase.methods) == {NONE if looks else "powersgd"}


def test_trials_that_change_nothing_become_rare() -> None:
    decisions, trials, steps = tried(), [], 0
    while steps < 8 * RETRY_STEPS:
        # Waits for gradients that a trial does not see would call for a next one every time.
        kept = Measured(0.9, 0.5) if decisions.phase.kind == "kept" else SLOW_STEPS["powersgd"]
        trials += [steps] if decisions.phase.probes else []
        steps += len(decisions.phase.methods)
        conclude(decisions, {**SLOW_STEPS, "powersgd": kept})
    gaps = [after - before for before, after in itertools.pairwise(trials)]
    assert all(after > 1.8 * before for before, after in zip([RETRY_STEPS, *gaps], gaps, strict=False))
    assert len(gaps) >= 2


seconds = st.floats(1e-4, 1e3)


@given(
    predicted=st.fixed_dictionaries(dict.fromkeys(MILDEST_FIRST, seconds)),
    true=st.fixed_dictionaries(dict.fromkeys(MILDEST_FIRST, seconds)),
    share=st.floats(0, 1),
    data=st.data(),
)
def test_whatever_is_predicted_and_measured_it_never_ends_up_slower_than_none(
    predicted: dict[str, float], true: dict[str, float], share: float, data: st.DataObject
) -> None:
    decisions = Decisions(predicted)
    noise = st.floats(1.0, 1.01)
    while decisions.phase.kind != "kept":
        measured = [(true[it] * data.draw(noise), true[it] * share) for it in decisions.phase.methods]
        decisions.conclude([Measured(*pair) for pair in measured])
    (chosen,) = set(decisions.phase.methods)
    assert true[chosen] <= true[NONE]
    assert decisions.phase.said
