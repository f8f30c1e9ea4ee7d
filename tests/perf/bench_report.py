"""What benchmarks have in common: quartiles, Markdown tables, and the three files of a report in docs/benchmarks/."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "docs/benchmarks"
MARK = "<!-- measured -->"


@dataclass(frozen=True)
class Quartiles:
    """Median, first and third quartile of some measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        return cls(*(float(it) for it in np.percentile(values, [50, 25, 75])))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def paired_ratios(ours: Sequence[float], other: Sequence[float]) -> list[float]:
    """Ours over the other's, turn by turn: what slows a turn down slows both of its members."""
    return [mine / theirs for mine, theirs in zip(ours, other, strict=True)]


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of equal columns as a Markdown table."""
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join(lines + [f"| {' | '.join(row[column] for column in columns)} |" for row in rows])


def machine() -> str:
    """What the figures depend on, in a line."""
    return (
        f"{os.cpu_count()} cores, one thread per rank, gloo, Python {platform.python_version()}, torch "
        f"{torch.__version__}, load before {os.getloadavg()[0]:.1f}"
    )


def write(name: str, title: str, text: str, data: Any, draw: Callable[[Path], None]) -> None:
    """`text` below the mark of docs/benchmarks/NAME.md, whose words above it stay; NAME.json and NAME.png beside it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    page = FOLDER / f"{name}.md"
    new = f"# {title}\n\nWritten by `make bench-{name} ARGS=--write`.\n\n![{title}]({name}.png)\n\n"
    head = page.read_text().partition(MARK)[0] if page.exists() else new
    page.write_text(f"{head}{MARK}\n\n{text}\n")
    (FOLDER / f"{name}.json").write_text(json.dumps(data) + "\n")
    draw(FOLDER / f"{name}.png")
    print(f"wrote {page.relative_to(REPOSITORY)}, and .json and .png beside it")
