"""The tables of `adts status` and `adts top`: pure functions of the jobs and the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from adts_api.v1alpha1 import DistributedTraining, Phase
from adts_operator.commands.cells import NOTHING, count, loss, phase_text, ready, since, span, steps
from adts_operator.core.times import to_seconds

ENDED = ("Succeeded", "Failed")
HOLDING = ("Starting", "Running", "Restarting")
"""Phases in which the pods that were made hold their devices."""


def plain_table(*headers: str, right: Iterable[str] = ()) -> Table:
    """A table without lines, as kubectl prints one; its first column folds where the terminal is narrow."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, header in enumerate(headers):
        justify: Literal["left", "right"] = "right" if header in right else "left"
        if number == 0:
            table.add_column(header, overflow="fold", min_width=8)
        else:
            table.add_column(header, justify=justify, no_wrap=True)
    return table


def status_table(jobs: Iterable[DistributedTraining], now: float, *, with_namespace: bool = False) -> Table:
    """A line for every job."""
    numbers = ("STEP", "LOSS", "TOK/S", "READY", "TRY", "FAILS", "SAVED", "AGE")
    table = plain_table("NAME", "PHASE", *numbers, right=numbers)
    for job in jobs:
        status = job.status
        table.add_row(
            title(job, with_namespace),
            phase_text(status.phase),
            steps(job),
            loss(status.progress.loss),
            count(status.progress.tokens_per_second),
            ready(job),
            str(status.attempt or NOTHING),
            str(status.failures),
            str(status.checkpoint.step or NOTHING),
            since(job.metadata.creation_timestamp, now),
        )
    return table


def top_table(jobs: Sequence[DistributedTraining], now: float, *, with_namespace: bool, rows: int) -> RenderableType:
    """The busy jobs first, as many as there is room for, with the sums of all above them."""
    numbers = ("STEP", "TOK/S", "LEFT", "GPUS", "GPU-H", "KEPT", "FAILS")
    table = plain_table("NAME", "PHASE", *numbers, right=numbers)
    ordered = sorted(jobs, key=_busy_first)
    for job in ordered[:rows]:
        status = job.status
        table.add_row(
            title(job, with_namespace),
            phase_text(status.phase),
            steps(job),
            count(speed(job)) if speed(job) else NOTHING,
            left(job, now),
            str(gpus_held(job) or NOTHING),
            f"{status.gpu_seconds.total / 3600:.1f}" if status.gpu_seconds.total else NOTHING,
            productive(job),
            str(status.failures),
        )
    hidden = len(ordered) - rows
    more = [Text(f"and {hidden} more: make the window higher", style="dim")] if hidden > 0 else []
    return Group(_sums(jobs), Text(), table, *more)


def title(job: DistributedTraining, with_namespace: bool) -> str:
    """The job's name, after its namespace where several are shown."""
    return f"{job.metadata.namespace}/{job.metadata.name}" if with_namespace else job.metadata.name


def gpus_held(job: DistributedTraining) -> int:
    """GPUs of the pods that have not ended."""
    workers = job.status.workers
    if job.status.phase not in HOLDING:
        return 0
    return job.spec.workers.gpus_per_worker * max(0, workers.created - workers.succeeded - workers.failed)


def speed(job: DistributedTraining) -> float:
    """Tokens per second now: the last figure of a job that does not run is history."""
    return (job.status.progress.tokens_per_second or 0.0) if job.status.phase == "Running" else 0.0


def left(job: DistributedTraining, now: float) -> str:
    """Time to the last step, counted on from when it was told."""
    progress = job.status.progress
    if progress.eta_seconds is None or job.status.phase != "Running":
        return NOTHING
    return span(progress.eta_seconds - (now - to_seconds(progress.at, now)))


def productive(job: DistributedTraining) -> str:
    """Share of the device seconds spent on steps that are kept, or still may be: a restart has not lost them."""
    spent = job.status.gpu_seconds
    return f"{(spent.productive + spent.unsaved) / spent.total:.0%}" if spent.total else NOTHING


def _busy_first(job: DistributedTraining) -> tuple[bool, int, str, str]:
    """Jobs under way by the GPUs they hold, then those that ended."""
    return job.status.phase in ENDED, -gpus_held(job), job.metadata.namespace, job.metadata.name


def _sums(jobs: Sequence[DistributedTraining]) -> Text:
    phases = Counter(job.status.phase for job in jobs)
    named = [f"{phases[phase]} {phase}" for phase in get_args(Phase) if phases[phase]]
    gpus = sum(map(gpus_held, jobs))
    text = Text(f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}", style="bold")
    text.append(f": {', '.join(named)}" if named else "", style="not bold")
    text.append(f"   {gpus} GPU{'' if gpus == 1 else 's'}", style="not bold")
    text.append(f"   {count(sum(map(speed, jobs)))} tokens/s", style="not bold")
    return text
