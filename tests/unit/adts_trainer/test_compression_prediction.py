"""Seconds that `auto` predicts, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from adts_api.training import Compression
from adts_trainer.communication.prediction import Exchange, Link, Load, best_bucket, candidates, exchange

LINK = Link(latency_seconds=0.01, bytes_per_second=1e6)
MATRIX, VECTOR = Load(((1000, 500),), is_lossy=True), Load(((500,),), is_lossy=False)
SPEC = Compression(method="auto", rank=2, ratio=0.01, block_size=500_000)
VECTOR_SECONDS = 0.01 + 2000 * 1e-6

EXPECTED = {
    "none": 0.01 + 2_000_000 * 1e-6,
    "bf16": 2 * 0.01 + 1_000_000 * 1e-6,
    "int8": 2 * 0.01 + (500_000 + 8) * 1e-6,
    "onebit": 2 * 0.01 + (62_500 + 8) * 1e-6,
    "powersgd": 2 * 0.01 + 2 * 1500 * 4 * 1e-6,
    "topk": 0.01 + 5000 * 8 * 1e-6,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_seconds_are_latency_and_bytes_and_compression(name: str) -> None:
    cost = 0.0 if name == "none" else 1e-7
    found = exchange(candidates(SPEC)[name], [MATRIX, VECTOR], 2, 4, LINK, cost)
    own = EXPECTED[name] + cost * 2_000_000
    assert found.longest == pytest.approx(own)
    assert found.seconds == pytest.approx(own + VECTOR_SECONDS), "what must stay exact is never compressed"


def test_candidates_keep_the_rank_and_ratio_of_the_spec() -> None:
    assert candidates(SPEC)["powersgd"].rank == 2
    assert candidates(SPEC)["topk"].method == "topk"


def test_what_nobody_can_tell_is_refused() -> None:
    with pytest.raises(ValueError, match=r"spec\.compression\.method: the bytes of custom"):
        exchange(Compression(method="custom"), [MATRIX], 2, 4, LINK, 0.0)


def test_small_buckets_hide_more_and_large_ones_wait_less_often() -> None:
    predicted = {
        ("int8", 25.0): Exchange(1.0, 0.3),
        ("int8", 6.25): Exchange(1.1, 0.1),
        ("int8", 100.0): Exchange(0.9, 0.9),
    }
    assert best_bucket(predicted, 100.0, overlaps=True) == 6.25
    assert best_bucket(predicted, 25.0, overlaps=True) == 25.0, "that of the spec, unless another is clearly better"
    late = {("int8", 25.0): Exchange(1.5, 0.3), ("int8", 100.0): Exchange(0.9, 0.9), ("none", 25.0): Exchange(2.0, 0.5)}
    assert best_bucket(late, 25.0, overlaps=False) == 100.0
