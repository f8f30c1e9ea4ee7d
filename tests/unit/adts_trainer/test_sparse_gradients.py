"""Which entries top-k and random-k send."""

from __future__ import annotations

import math

import pytest
import torch

from adts_trainer.communication.randomk import choose
from adts_trainer.communication.topk import density, largest


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.25),
        (24, 0.25),
        (25, 0.0625),
        (50, 0.015625),
        (75, 0.00390625),
        (99, 0.00390625),
        (100, 0.001),
        (9999, 0.001),
    ],
)
def test_the_density_falls_by_four(step: int, expected: float) -> None:
    assert density(step, ratio=0.001, warmup_steps=100) == expected


@pytest.mark.parametrize("ratio", [0.25, 0.4, 1.0])
def test_a_density_above_the_ramp_needs_none(ratio: float) -> None:
    assert {density(step, ratio, warmup_steps=10) for step in range(20)} == {ratio}


SEARCHED = {
    "normal": lambda x: x,
    "mostly zero": lambda x: x * (x > 2.5),
    "all equal": torch.ones_like,
    "large where the sample does not look": lambda x: x * (torch.arange(x.numel()) % 3 != 0),
    "large only where it looks": lambda x: x * (torch.arange(x.numel()) % 3 == 0),
}


@pytest.mark.parametrize("kind", SEARCHED)
@pytest.mark.parametrize("k", [1, 300, 200_000, 300_000])
def test_the_sampled_search_finds_the_largest(kind: str, k: int) -> None:
    x = SEARCHED[kind](torch.randn(300_000, generator=torch.Generator().manual_seed(1)))
    places = largest(x, k)
    assert places.unique().numel() == k
    assert torch.equal(x[places].abs().sort().values, x.abs().topk(k).values.sort().values)
    x[5] = torch.nan
    assert 5 in largest(x, k)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (10, 0), (1000, 1), (1000, 250), (1000, 251), (1000, 1000)])
def test_random_places_differ(n: int, k: int) -> None:
    places = choose(n, k, torch.Generator().manual_seed(2))
    assert places.unique().numel() == k
    assert ((places >= 0) & (places < n)).all()
    assert torch.equal(places, choose(n, k, torch.Generator().manual_seed(2)))


def test_every_place_is_equally_likely() -> None:
    generator, draws = torch.Generator().manual_seed(4), 4000
    counts = torch.stack([torch.bincount(choose(40, 5, generator), minlength=40) for _ in range(draws)]).sum(0)
    sigma = math.sqrt(draws * 0.125 * 0.875)
    assert (counts - draws * 0.125).abs().max() < 5 * sigma
