"""What `adts bench comm` says: a table, advice in one sentence, JSON and a plot. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adts_trainer.communication.prediction import MILDEST_FIRST, NONE, Link

HEADER = f"{'MiB':>6}  {'method':9}{'seconds':>10}{'MB sent':>10}{'error':>10}{'speed-up':>10}"
_WORTH = 1.1
"""Times that a method must be faster than none before it is worth a word."""


@dataclass(frozen=True)
class Row:
    """One compressor on gradients of one size."""

    method: str
    mebibytes: float
    """Of fp32 gradients on each rank."""
    seconds: float
    """To sum them, as the slowest rank sees it: compression, collectives, decompression."""
    sent_bytes: int
    """By each rank."""
    relative_error: float
    """|sum - exact sum| / |exact sum|, Euclidean, of one sum: error feedback brings the rest in later ones."""


def line(row: Row, rows: Sequence[Row]) -> str:
    """A row below HEADER; `rows` has that of `none` of the same size, if it was asked for."""
    plain = _plain(rows, row.mebibytes)
    factor = f"{plain.seconds / row.seconds:9.2f}x" if plain is not None else ""
    numbers = f"{row.seconds:10.4f}{row.sent_bytes / 1e6:10.2f}{row.relative_error:10.1e}"
    return f"{row.mebibytes:6g}  {row.method:9}{numbers}{factor}"


def describe(link: Link, ranks: int) -> str:
    """The link in a line."""
    return (
        f"{ranks} ranks; all-reduce latency {link.latency_seconds * 1e3:.3g} ms, "
        f"{link.bytes_per_second / 1e6:.4g} MB/s ({link.bytes_per_second * 8e-9:.3g} Gbit/s) sent by each rank"
    )


def advice(rows: Sequence[Row]) -> str:
    """Which of the methods that `auto` takes pays on this link, and when, judged at the largest size."""
    if not rows:
        return "Nothing was measured."
    largest = max(row.mebibytes for row in rows)
    plain = _plain(rows, largest)
    if plain is None:
        return "Without `none` among the methods nothing can be said of what pays."
    sane = [row for row in rows if row.mebibytes == largest and row.method in MILDEST_FIRST]
    rivals = [row for row in sane if row.seconds * _WORTH < plain.seconds]
    if not rivals:
        return (
            f"On this link no method sums {largest:g} MiB of gradients faster than none ({plain.seconds:.3g} s): "
            "leave spec.compression.method at none."
        )
    best = min(rivals, key=lambda row: row.seconds)
    exact = min(rivals, key=lambda row: row.relative_error)
    milder = (
        f" {exact.method}, the most exact of those that gain, makes it {exact.seconds:.3g} s."
        if exact is not best
        else ""
    )
    return (
        f"On this link {best.method} pays where a step's backward pass takes less than {plain.seconds:.3g} s per "
        f"{largest:g} MiB of gradients, which is what summing them takes with none and {best.seconds:.3g} s with "
        f"{best.method}; a longer one hides the exchange, and nothing is gained.{milder}"
    )


def as_json(rows: Sequence[Row], link: Link, ranks: int, machine: str) -> dict[str, Any]:
    """Everything, for a program: seconds and bytes."""
    return {
        "machine": machine,
        "ranks": ranks,
        "link": asdict(link),
        "rows": [asdict(row) for row in rows],
        "advice": advice(rows),
    }


def draw(rows: Sequence[Row], title: str, out: Path) -> None:
    """Seconds over the size of the gradients, a line per method, as PNG. Raises OSError."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    for method in dict.fromkeys(row.method for row in rows):
        points = [(row.mebibytes, row.seconds) for row in rows if row.method == method]
        style = {"color": "black", "linewidth": 2.5} if method == NONE else {}
        axes.plot(*zip(*points, strict=True), marker="o", label=method, **style)
    axes.set(title=title, xlabel="MiB of fp32 gradients per rank", ylabel="seconds to sum them")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.legend(ncols=2, fontsize="small")
    figure.tight_layout()
    figure.savefig(out, format="png")
    plt.close(figure)


def _plain(rows: Sequence[Row], mebibytes: float) -> Row | None:
    return next((row for row in rows if row.method == NONE and row.mebibytes == mebibytes), None)
