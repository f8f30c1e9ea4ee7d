"""The compact page of one job, `adts status JOB`, and the facts that `adts describe` shares with it. Pure."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adts_api.contract import ConditionType
from adts_api.v1alpha1 import Condition, DistributedTraining
from adts_operator.cluster.kubernetes_jobs import OURSELVES
from adts_operator.commands.cells import phase_text, since, span
from adts_operator.commands.tables import ENDED, left, productive
from adts_operator.core.conditions import find_condition
from adts_operator.core.failures import start_deadline
from adts_operator.core.policy import active_deadline
from adts_operator.core.times import to_seconds

EXPLAINED_BY_RUNNING = ("Pending", "Queued", "Starting", "Restarting")
BAR_WIDTH = 30
INDENT = 2


def status_page(job: DistributedTraining, now: float) -> RenderableType:
    """Where a job stands, on half a screen."""
    why, remark = explaining(job), stranger(job)
    words = remark or (f"{why.reason}: {why.message.partition(chr(10))[0]}" if why else "")
    return Group(heading(job, now), *([indented(Text(words))] if words else []), indented(facts(job, now)))


def heading(job: DistributedTraining, now: float) -> Text:
    """`gpt2 in team-a: Running, 2h5m old`."""
    text = Text(job.metadata.name, style="bold")
    text.append(f" in {job.metadata.namespace}: ", style="not bold")
    text.append_text(phase_text(job.status.phase))
    text.append(f", {since(job.metadata.creation_timestamp, now)} old", style="not bold")
    if job.metadata.deletion_timestamp:
        text.append(f", being deleted for {since(job.metadata.deletion_timestamp, now)}", style="yellow")
    return text


def facts(job: DistributedTraining, now: float) -> Table:
    """Name and value of everything the status tells in numbers."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    if job.status.progress.steps:
        table.add_row("steps", _bar(job))
    for name, value in [*_training(job, now), *_life(job), *deadlines(job, now)]:
        if value:
            table.add_row(name, Text(value))
    return table


def stranger(job: DistributedTraining) -> str:
    """Why this operator says nothing about a job; empty where it does."""
    other = job.spec.run_policy.managed_by
    if other not in OURSELVES:
        return f"The controller {other} is in charge of it (runPolicy.managedBy), not adts."
    if is_unseen(job):
        return (
            "The operator has not looked at it yet. If that lasts more than some seconds, no operator runs, or none "
            "that watches this namespace."
        )
    return ""


def is_unseen(job: DistributedTraining) -> bool:
    """Whether no operator has written a status."""
    return not job.status.conditions and not job.status.observed_generation


def explaining(job: DistributedTraining) -> Condition | None:
    """The condition that says why the job is where it is; None where the phase says it all."""
    conditions, phase = job.status.conditions, job.status.phase
    valid = find_condition(conditions, ConditionType.VALID)
    if phase not in ENDED and valid is not None and valid.status == "False":
        return valid
    if phase == "Failed":
        return find_condition(conditions, ConditionType.FAILED)
    return find_condition(conditions, ConditionType.RUNNING) if phase in EXPLAINED_BY_RUNNING else None


def deadlines(job: DistributedTraining, now: float) -> list[tuple[str, str]]:
    """What happens by itself, and in how long."""
    status, policy = job.status, job.spec.run_policy
    found: list[tuple[str, str, float | None]] = []
    if status.phase in ENDED:
        if policy.ttl_seconds_after_finished is not None:
            end = to_seconds(status.finished_at, now) + policy.ttl_seconds_after_finished
            found.append(("is deleted", "runPolicy.ttlSecondsAfterFinished", end))
    else:
        if status.not_before and to_seconds(status.not_before, now) > now:
            found.append(("next attempt", "the delay after failures", to_seconds(status.not_before, now)))
        if status.attempt and status.phase in ("Pending", "Starting"):
            found.append(("must run", "runPolicy.startDeadlineSeconds", start_deadline(job, status, now)))
        found.append(("must end", "runPolicy.activeDeadlineSeconds", active_deadline(job, status)))
    return [(name, f"in {span(time - now)} ({rule})") for name, rule, time in found if time is not None]


def indented(thing: RenderableType) -> RenderableType:
    """Moved to the right, below a heading."""
    return Padding(thing, (0, 0, 0, INDENT), expand=False)


def _training(job: DistributedTraining, now: float) -> list[tuple[str, str]]:
    progress, saved, spent = job.status.progress, job.status.checkpoint, job.status.gpu_seconds
    unit = "samples" if job.spec.model.type == "mlp" else "tokens"
    speed = "" if progress.tokens_per_second is None else f"{progress.tokens_per_second:,.0f} {unit}/s"
    if speed and progress.mfu is not None:
        speed += f", {progress.mfu:.1%} of the device's peak"
    age = f", {since(saved.at, now)} ago" if saved.at else ""
    return [
        ("loss", "" if progress.loss is None else f"{progress.loss:.4f}"),
        ("held out", "" if progress.evaluation_loss is None else f"{progress.evaluation_loss:.4f}"),
        ("speed", speed),
        ("left", "" if progress.eta_seconds is None or job.status.phase != "Running" else left(job, now)),
        ("checkpoint", f"step {saved.step}{age}, {saved.path}" if saved.step else ""),
        ("GPU time", f"{spent.total / 3600:.1f} h, {productive(job)} of it kept" if spent.total else ""),
    ]


def _life(job: DistributedTraining) -> list[tuple[str, str]]:
    status, workers = job.status, job.status.workers
    ready = f"{workers.ready} of {workers.desired or job.spec.workers.replicas} run"
    ended = [f"{number} {word}" for number, word in ((workers.succeeded, "done"), (workers.failed, "failed")) if number]
    limit = job.spec.run_policy.backoff_limit
    restarts = f"failures spent: {status.failures} of {limit}, restarts in place: {status.rounds}"
    return [
        ("image", status.image or job.spec.image or "the operator's default"),
        ("layout", status.layout),
        ("workers", ", ".join([ready, *ended]) if status.phase not in ENDED else ""),
        ("attempt", str(status.attempt or "")),
        ("restarts", restarts if status.failures or status.rounds else ""),
    ]


def _bar(job: DistributedTraining) -> RenderableType:
    progress = job.status.progress
    row = Table.grid(padding=(0, 1, 0, 0))
    bar = ProgressBar(total=progress.steps, completed=progress.step, width=BAR_WIDTH)
    row.add_row(bar, f"{progress.step} of {progress.steps}")
    return row
