"""Compressors over real gloo groups: nothing is lost, all ranks hold the same bits, bytes are as the formula says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adts_api.training import Compression
from adts_api.wire_bytes import wire_bytes
from support import compressor_cases as cases
from support.compressor_cases import SHAPES, lost, same_bits
from support.wire_pool import WORLD, Pool

pytestmark = pytest.mark.distributed

METHODS: dict[str, Compression] = {
    "none": Compression(),
    "bf16": Compression(method="bf16"),
    "fp16": Compression(method="fp16"),
    "int8": Compression(method="int8", block_size=64),
    "fp8": Compression(method="fp8", block_size=64),
    "onebit": Compression(method="onebit", block_size=64),
    "topk": Compression(method="topk", ratio=0.05),
    "topk fp16": Compression(method="topk", ratio=0.05, cast="fp16"),
    "randomk": Compression(method="randomk", ratio=0.05),
    "randomk bf16": Compression(method="randomk", ratio=0.05, cast="bf16"),
    "powersgd": Compression(method="powersgd", rank=2),
    "powersgd fp16": Compression(method="powersgd", rank=2, cast="fp16"),
}
LOSSY = {name: method for name, method in METHODS.items() if name != "none"}


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_200_steps_lose_nothing(pool: Pool, name: str, world: int) -> None:
    ranks = pool.run(world, cases.train, METHODS[name], 200)
    assert lost(ranks) <= 1e-12
    assert same_bits(ranks)
    predicted = wire_bytes(METHODS[name], SHAPES, world, itemsize=8)
    assert predicted is not None
    assert [rank.sent for rank in ranks] == [200 * predicted] * world
    if name != "none":
        applied = ranks[0].applied.norm() / sum(rank.given for rank in ranks).norm()
        assert applied > 0.5, "residuals do not pile up without end"


TRAPS = {
    "an owner whose rounding nobody keeps": (cases.train_without_owner, (METHODS["int8"], 200), METHODS["int8"]),
    "bf16 that is added up in bf16": (cases.train_in_flight, (200,), METHODS["bf16"]),
}


@pytest.mark.parametrize(("naive", "arguments", "right"), TRAPS.values(), ids=TRAPS.keys())
def test_a_second_rounding_must_be_kept(pool: Pool, naive, arguments, right: Compression) -> None:  # type: ignore[no-untyped-def]
    gap = lost(pool.run(3, naive, *arguments))
    assert gap > 1e-4
    assert lost(pool.run(3, cases.train, right, 200)) < 1e-8 * gap


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", METHODS)
def test_an_overflow_on_one_rank_shows_on_all_and_leaves_no_trace(
    pool: Pool, name: str, value: float, dtype: torch.dtype
) -> None:
    assert all(pool.run(3, cases.overflow, METHODS[name], 1, value, dtype))


@pytest.mark.parametrize("naive", ["sign", "randomk"])
def test_without_a_look_at_the_vector_an_overflow_is_hidden(pool: Pool, naive: str) -> None:
    assert all(pool.run(2, cases.hidden, naive))


@pytest.mark.parametrize("name", METHODS)
def test_what_a_checkpoint_holds_continues_bitwise(pool: Pool, name: str) -> None:
    pool.run(2, cases.resume, METHODS[name])


REPLACEMENTS = [
    ("int8", "none"),
    ("onebit", "int8"),
    ("int8", "powersgd"),
    ("powersgd", "none"),
    ("topk", "onebit"),
    ("none", "fp8"),
]


@pytest.mark.parametrize(("first", "then"), REPLACEMENTS)
def test_another_compressor_takes_over_the_residual(pool: Pool, first: str, then: str) -> None:
    ranks = pool.run(3, cases.train_and_replace, METHODS[first], METHODS[then])
    assert lost(ranks) <= 1e-13
    assert same_bits(ranks)
    if then == "none":
        assert all((rank.missed == 0).all() for rank in ranks), "all of it was flushed"


@pytest.mark.parametrize("name", LOSSY)
def test_nothing_is_kept_without_error_feedback(pool: Pool, name: str) -> None:
    without = LOSSY[name].model_copy(update={"error_feedback": False})
    ranks = pool.run(2, cases.train, without, 3)
    assert all((rank.missed == 0).all() for rank in ranks)
    assert lost(ranks) > 1e-6
    assert same_bits(ranks)


@given(
    name=st.sampled_from(sorted(METHODS)),
    world=st.integers(1, WORLD),
    shapes=st.lists(st.lists(st.integers(1, 9), max_size=3), max_size=4),
    block=st.sampled_from([1, 5, 64]),
    ratio=st.sampled_from([0.01, 0.3, 1.0]),
    rank=st.integers(1, 3),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shape(
    pool: Pool, name: str, world: int, shapes: list[list[int]], block: int, ratio: float, rank: int
) -> None:
    method = METHODS[name].model_copy(update={"block_size": block, "ratio": ratio, "rank": rank})
    ranks = pool.run(world, cases.train, method, 3, shapes)
    assert lost(ranks) <= 1e-13
    assert same_bits(ranks)
    assert all(rank.sent == 3 * wire_bytes(method, shapes, world, itemsize=8) for rank in ranks)


def test_an_empty_bucket_travels_free(pool: Pool) -> None:
    for name, method in METHODS.items():
        for told in pool.run(2, cases.train, method, 2, []):
            assert told.applied.numel() == 0, name
