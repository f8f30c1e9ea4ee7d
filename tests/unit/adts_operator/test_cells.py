"""Numbers and times in the cells of a table."""

from __future__ import annotations

import pytest

from adts_operator.commands.cells import count, since, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0.4, "0s"),
        (59, "59s"),
        (60, "1m"),
        (200, "3m20s"),
        (3000, "50m"),
        (3600, "1h"),
        (7500, "2h5m"),
        (40_000, "11h"),
        (172_799, "47h"),
        (259_200, "3d"),
    ],
)
def test_span(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.25, "0.25"),
        (999.4, "999"),
        (999.9, "1k"),
        (12_345.0, "12.3k"),
        (999_999.0, "1M"),
        (1_234_567.8, "1.23M"),
        (5e9, "5G"),
    ],
)
def test_count(number: float | None, text: str) -> None:
    assert count(number) == text


def test_since_counts_from_a_time_to_now() -> None:
    assert since("2027-01-15T08:00:00Z", 1_800_000_090.0) == "1m30s"
    assert since("", 1_800_000_090.0) == "–"
