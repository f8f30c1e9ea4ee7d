"""What `adts run` shows: plain lines, or on a terminal a live view. Both are fed with the job and its new output."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adts_api.v1alpha1 import DistributedTraining, Phase, Status
from adts_operator.core.plan import Event
from adts_operator.core.times import to_seconds

LOG_LINES = 8
LOSSES = 48  # bars of the whole run
MOST_LOSSES = 64 * LOSSES  # kept; beyond it neighbours are averaged
BARS = "▁▂▃▄▅▆▇█"
STYLES: dict[Phase, str] = {"Running": "green", "Succeeded": "bold green", "Failed": "bold red", "Restarting": "yellow"}


class View:
    """Lines for a file or a pipe: those of the pods pass through, changes of the job are added."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.panel = RunPanel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, job: DistributedTraining, lines: Sequence[str]) -> None:
        """The job as it is now, and what its pods have written since the last call."""
        self.panel.take(job, lines)
        for line in lines:
            self._print(line)

    def say(self, message: str) -> None:
        """A line of our own."""
        self._print(f"[adts] {message}")

    def tell(self, event: Event) -> None:
        """Something that changed."""
        self.say(f"{event.reason}: {event.message}")

    def _print(self, line: str) -> None:
        """Where nobody reads any more, or the disk of the log is full, the training goes on unseen."""
        try:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        except (OSError, SystemExit):  # rich turns a broken pipe into SystemExit
            self.console = Console(quiet=True)
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class LiveView(View):
    """One panel that is drawn again and again; our own lines are printed above it and stay."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live = Live(console=console, get_renderable=lambda: self.panel, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, job: DistributedTraining, lines: Sequence[str]) -> None:
        self.panel.take(job, lines)


class RunPanel:
    """The picture of a run; rich draws it whenever it likes."""

    def __init__(self) -> None:
        self._job: DistributedTraining | None = None
        self._losses: list[float] = []
        self._lines: deque[str] = deque(maxlen=LOG_LINES)

    def take(self, job: DistributedTraining, lines: Sequence[str]) -> None:
        """Learns the newest state."""
        self._job = job
        self._lines.extend(lines)
        loss = job.status.progress.loss
        if loss is not None and (not self._losses or self._losses[-1] != loss):
            self._losses.append(loss)
        if len(self._losses) > MOST_LOSSES:
            self._losses = thinned(self._losses, MOST_LOSSES // 2)

    def __rich__(self) -> RenderableType:
        if self._job is None:
            return Text("starting")
        job, status = self._job, self._job.status
        title = f"[bold]{job.metadata.name}[/bold]  [{STYLES.get(status.phase, 'cyan')}]{status.phase}[/]"
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        for name, value in [("steps", _bar(status)), *((n, Text(v)) for n, v in self._facts(job) if v)]:
            facts.add_row(name, value)
        log = Text("\n".join(self._lines), style="dim", no_wrap=True, overflow="ellipsis")
        return Panel(Group(facts, Text(), log), title=title, title_align="left", border_style="dim")

    def _facts(self, job: DistributedTraining) -> list[tuple[str, str]]:
        status, progress = job.status, job.status.progress
        unit = "samples" if job.spec.model.type == "mlp" else "tokens"
        loss = "" if progress.loss is None else f"{progress.loss:.4f}  {sparkline(thinned(self._losses, LOSSES))}"
        speed = "" if progress.tokens_per_second is None else f"{progress.tokens_per_second:,.0f} {unit}/s"
        if speed and progress.mfu is not None:
            speed += f", {progress.mfu:.1%} of the device's peak"
        saved = status.checkpoint
        return [
            ("loss", loss),
            ("held out", "" if progress.evaluation_loss is None else f"{progress.evaluation_loss:.4f}"),
            ("speed", speed),
            ("left", "" if progress.eta_seconds is None else duration(progress.eta_seconds)),
            ("layout", f"{status.layout}, attempt {status.attempt}"),
            ("restarts", restarts(status)),
            ("checkpoint", f"step {saved.step}, {os.path.relpath(saved.path)}" if saved.step else ""),
        ]


def save_picture(job: DistributedTraining, panel: RenderableType, path: Path) -> None:
    """The panel as an SVG file, as a terminal of 100 columns would show it."""
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    console.print(panel)
    console.save_svg(str(path), title=f"adts run {job.metadata.name}.yaml")


def restarts(status: Status) -> str:
    """Number and last cause of the restarts; empty without any."""
    if not status.restarts:
        return ""
    last = status.restarts[-1]
    attempts = sum(restart.scope == "attempt" for restart in status.restarts)
    return f"{status.rounds} in place, {attempts} of the gang; last: {last.pod} {last.reason}"


def sparkline(values: Sequence[float]) -> str:
    """The values as bars between their smallest and largest."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)


def thinned(values: Sequence[float], most: int) -> list[float]:
    """At most `most` values: the means of equal parts, in order."""
    if len(values) <= most:
        return list(values)
    edges = [len(values) * part // most for part in range(most + 1)]
    return [fmean(values[begin:end]) for begin, end in pairwise(edges)]


def duration(seconds: float) -> str:
    """`4 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def elapsed(status: Status) -> float:
    """Seconds from the start of this life of the job to its end."""
    end = to_seconds(status.finished_at, 0.0)
    return max(0.0, end - to_seconds(status.started_at, end))


def _bar(status: Status) -> RenderableType:
    progress = status.progress
    row = Table.grid(padding=(0, 1))
    row.add_row(
        ProgressBar(total=max(1, progress.steps), completed=progress.step, width=40),
        f"{progress.step} of {progress.steps}" if progress.steps else "",
    )
    return row
