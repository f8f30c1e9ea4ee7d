"""The fp16 loss scale: halved at an overflow, doubled after enough good steps, the same after a restore."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adts_api.training import Precision
from adts_trainer.precision import LossScaler

FP16 = Precision(dtype="fp16", initial_loss_scale=1024.0, loss_scale_interval=3)


def play(scaler: LossScaler, overflows: list[bool]) -> float:
    for overflow in overflows:
        scaler.overflowed() if overflow else scaler.stepped()
    return scaler.scale


@pytest.mark.parametrize(
    ("overflows", "scale"),
    [
        ([], 1024),
        ([True], 512),
        ([False, False], 1024),
        ([False, False, False], 2048),
        ([False, False, True, False, False], 512),
        ([False, False, True, False, False, False], 1024),
        ([True] * 10, 1),
    ],
    ids=str,
)
def test_the_scale_follows_the_steps(overflows: list[bool], scale: float) -> None:
    assert play(LossScaler(FP16), overflows) == scale


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
def test_other_formats_are_never_scaled(dtype: str) -> None:
    scaler = LossScaler(Precision(dtype=dtype, loss_scale_interval=1))
    assert play(scaler, [False] * 5) == 1.0
    assert not scaler.absorbs_overflow


def test_below_one_an_overflow_is_no_business_of_the_scale() -> None:
    scaler = LossScaler(FP16)
    play(scaler, [True] * 10)
    assert scaler.absorbs_overflow
    scaler.overflowed()
    assert not scaler.absorbs_overflow


def test_it_stops_growing_before_a_float_overflows() -> None:
    assert play(LossScaler(FP16), [False] * 300) == 2.0**24


@given(before=st.lists(st.booleans(), max_size=30), after=st.lists(st.booleans(), max_size=30))
def test_a_restored_scaler_goes_on_as_the_first_would(before: list[bool], after: list[bool]) -> None:
    first, second = LossScaler(FP16), LossScaler(FP16)
    play(first, before)
    second.restore(first.state())
    assert play(first, after) == play(second, after)
    assert first.state() == second.state()


def test_a_scale_that_fell_to_1_is_restored_as_1() -> None:
    first, second = LossScaler(FP16), LossScaler(FP16)
    play(first, [True] * 10)
    second.restore(first.state())
    assert (first.scale, second.scale) == (1.0, 1.0)


def test_a_checkpoint_of_another_format_brings_no_scale() -> None:
    scaler = LossScaler(FP16)
    scaler.restore(LossScaler(Precision(dtype="bf16")).state())
    assert scaler.scale == 1024
    unscaled = LossScaler(Precision(dtype="fp32"))
    unscaled.restore(LossScaler(FP16).state())
    assert unscaled.scale == 1.0
