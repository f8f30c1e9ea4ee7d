"""Buckets: every gradient in one of them, none too large, in an order that all ranks share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adts_trainer.communication.bucket_layout import EDGE_BYTES, FEWEST, MEBIBYTE, Named, lay_out

SHAPES = st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=12)


def named(shapes: Sequence[Sequence[int]]) -> list[Named]:
    return [(f"p{number}", nn.Parameter(torch.empty(shape))) for number, shape in enumerate(shapes)]


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2


@given(SHAPES, st.integers(1, 400))
def test_every_entry_is_in_one_bucket_and_no_bucket_mixes(shapes: list[list[int]], limit: int) -> None:
    parameters = named(shapes)
    buckets = lay_out(parameters, limit, is_matrix)
    rows = [row for bucket, _ in buckets for row in bucket]
    for name, parameter in parameters:
        own = sorted((row.start, row.stop) for row in rows if row.name == name)
        ends = [0, *(stop for _, stop in own)]
        assert [start for start, _ in own] == ends[:-1], "rows follow each other"
        expected = parameter.shape[0] if parameter.ndim else 1
        assert ends[-1] == (expected if parameter.numel() else 0)
    assert all(is_lossy == is_matrix(row.name, row.parameter) for bucket, is_lossy in buckets for row in bucket)


@given(SHAPES, st.integers(1, 400))
def test_a_bucket_is_at_most_as_large_as_asked_or_one_row(shapes: list[list[int]], limit: int) -> None:
    for bucket, _ in lay_out(named(shapes), limit, is_matrix):
        size = sum(row.entries * 4 for row in bucket)
        assert size <= limit or len(bucket) == 1
        if size > limit:
            (row,) = bucket
            assert (row.stop - row.start - 1) * (row.entries // (row.stop - row.start)) * 4 < limit


@given(SHAPES, st.integers(1, 400))
def test_buckets_travel_where_their_last_gradient_stands(shapes: list[list[int]], limit: int) -> None:
    parameters = named(shapes)
    position = {name: number for number, (name, _) in enumerate(parameters)}
    last = [position[bucket[-1].name] for bucket, _ in lay_out(parameters, limit, is_matrix)]
    assert last == sorted(last)


def test_the_first_and_the_last_bucket_are_small_and_a_small_model_has_several() -> None:
    parameters = named([[256, 1024]] * 24)  # 1 MiB each
    sizes = [sum(row.entries * 4 for row in bucket) for bucket, _ in lay_out(parameters, 25 * MEBIBYTE, is_matrix)]
    assert sizes[0] == sizes[-1] == EDGE_BYTES
    assert len(sizes) >= FEWEST
    assert max(sizes) == 3 * MEBIBYTE


def test_rows_of_a_tensor_share_its_storage() -> None:
    parameter = nn.Parameter(torch.zeros(10, 3))
    (bucket, _), *_ = lay_out([("p", parameter)], 40, is_matrix)
    with torch.no_grad():
        bucket[0].of(parameter.detach()).fill_(1.0)
    assert parameter[bucket[0].start : bucket[0].stop].sum() == bucket[0].entries
    assert bucket[0].piece.shape == torch.Size([bucket[0].stop - bucket[0].start, 3])
