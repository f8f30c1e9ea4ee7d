"""What `adts bench comm` says of what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adts_trainer.communication.bench_report import HEADER, Row, advice, as_json, describe, draw, line
from adts_trainer.communication.prediction import Link

LINK = Link(latency_seconds=0.0002, bytes_per_second=25e6)
SLOW = [
    Row("none", 1, 0.042, 1_048_576, 0.0),
    Row("none", 64, 2.68, 67_108_864, 0.0),
    Row("bf16", 64, 1.4, 33_554_432, 2e-3),
    Row("powersgd", 64, 0.3, 281_000, 0.8),
]
FAST = [Row("none", 64, 0.03, 67_108_864, 0.0), Row("bf16", 64, 0.028, 33_554_432, 2e-3)]

ADVICE = {
    "slow": (
        SLOW,
        "On this link powersgd pays where a step's backward pass takes less than 2.68 s per 64 MiB of gradients, which "
        "is what summing them takes with none and 0.3 s with powersgd; a longer one hides the exchange, and nothing is "
        "gained. bf16, the most exact of those that gain, makes it 1.4 s.",
    ),
    "one that gains": ([SLOW[1], SLOW[2]], "On this link bf16 pays where"),
    "what auto would not take": ([*FAST, Row("randomk", 64, 0.001, 10, 1.0)], "On this link no method sums"),
    "fast": (FAST, "On this link no method sums 64 MiB of gradients faster than none (0.03 s): leave"),
    "no yardstick": (FAST[1:], "Without `none` among the methods nothing can be said"),
    "nothing": ([], "Nothing was measured."),
}


@pytest.mark.parametrize(("rows", "expected"), ADVICE.values(), ids=ADVICE)
def test_the_advice_says_what_pays_and_when(rows: list[Row], expected: str) -> None:
    assert advice(rows).startswith(expected)


def test_a_line_compares_with_none_of_the_same_size() -> None:
    assert line(SLOW[3], SLOW).split() == ["64", "powersgd", "0.3000", "0.28", "8.0e-01", "8.93x"]
    assert len(line(SLOW[3], SLOW)) == len(HEADER)
    assert line(FAST[1], FAST[1:]).split()[-1] == "2.0e-03"


def test_the_link_is_told_in_bytes_and_bits() -> None:
    assert describe(LINK, 2) == "2 ranks; all-reduce latency 0.2 ms, 25 MB/s (0.2 Gbit/s) sent by each rank"


def test_json_has_everything() -> None:
    told = json.loads(json.dumps(as_json(SLOW, LINK, 2, "here")))
    assert told["ranks"] == 2
    assert told["link"] == {"latency_seconds": 0.0002, "bytes_per_second": 25e6}
    assert told["rows"][3] == {
        "method": "powersgd", "mebibytes": 64, "seconds": 0.3, "sent_bytes": 281_000, "relative_error": 0.8,
    }  # fmt: skip
    assert told["advice"] == advice(SLOW)


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    draw(SLOW, "link", tmp_path / "plot")
    assert (tmp_path / "plot").read_bytes().startswith(b"\x89PNG")
