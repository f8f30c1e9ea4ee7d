"""The learning rate over the steps, as a function of the spec."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adts_api.training import Optimizer, Schedule
from adts_trainer.optimizer import learning_rate

PEAK = 1.0
TYPES = ["constant", "linear", "cosine", "wsd"]


def rates(steps: int, **schedule: object) -> list[float]:
    spec = Optimizer(learning_rate=PEAK, schedule=Schedule.model_validate(schedule))
    return [learning_rate(spec, steps, step) for step in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"type": "constant"}, [1, 1, 1, 1, 1]),
        ({"type": "constant", "warmupSteps": 2}, [0.5, 1, 1, 1, 1]),
        ({"type": "linear", "minRatio": 0.0}, [1, 0.8, 0.6, 0.4, 0.2]),
        ({"type": "linear", "minRatio": 0.5}, [1, 0.9, 0.8, 0.7, 0.6]),
        ({"type": "linear", "minRatio": 0.0, "decaySteps": 2}, [1, 0.5, 0, 0, 0]),
        ({"type": "linear", "minRatio": 0.0, "warmupSteps": 1}, [1, 1, 0.75, 0.5, 0.25]),
        ({"type": "cosine", "minRatio": 0.0, "decaySteps": 4}, [1, 0.853553, 0.5, 0.146447, 0]),
        ({"type": "cosine", "minRatio": 0.2, "decaySteps": 2}, [1, 0.6, 0.2, 0.2, 0.2]),
        ({"type": "wsd", "minRatio": 0.0, "decaySteps": 2}, [1, 1, 1, 1, 0.5]),
        ({"type": "wsd", "minRatio": 0.0, "decaySteps": 4}, [1, 1, 0.75, 0.5, 0.25]),
    ],
    ids=str,
)
def test_curves(schedule: dict[str, object], expected: list[float]) -> None:
    assert rates(5, **schedule) == pytest.approx(expected, abs=1e-6)


def test_wsd_decays_over_the_last_fifth_by_default() -> None:
    values = rates(100, type="wsd")
    assert values[:81] == [PEAK] * 81
    assert values[81] < PEAK


@given(
    type_=st.sampled_from(TYPES),
    steps=st.integers(1, 60),
    warmup=st.integers(0, 80),
    decay=st.integers(0, 80),
    ratio=st.floats(0, 1),
)
def test_it_rises_to_the_peak_then_never_rises_and_never_leaves_its_range(
    type_: str, steps: int, warmup: int, decay: int, ratio: float
) -> None:
    values = rates(steps, type=type_, warmupSteps=warmup, decaySteps=decay, minRatio=ratio)
    rising, falling = values[:warmup], values[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert all(0 < value <= PEAK for value in rising)
    assert all(ratio * PEAK - 1e-12 <= value <= PEAK for value in falling)


@given(step=st.integers(0, 1000))
def test_a_constant_rate_does_not_depend_on_the_number_of_steps(step: int) -> None:
    spec = Optimizer(schedule=Schedule(type="constant", warmup_steps=7))
    assert learning_rate(spec, 10, step) == learning_rate(spec, 10_000, step)
