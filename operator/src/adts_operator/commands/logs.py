"""`adts logs`: the output of all pods of a job, each line behind the name of its pod."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator

import click

from adts_api.v1alpha1 import DistributedTraining
from adts_operator.cluster.api import Api, ApiError
from adts_operator.cluster.pod_views import read_pod
from adts_operator.commands.cluster_options import Target, cluster_options, connect
from adts_operator.commands.log_follower import FORBIDDEN, Follower
from adts_operator.commands.log_lines import Choice, LogLine, by_time, choose, has_log, kept_output, read_lines
from adts_operator.commands.log_words import state_words, waiting_words
from adts_operator.commands.options import debug_option
from adts_operator.commands.reads import read_job, read_pods, typed
from adts_operator.commands.tables import ENDED
from adts_operator.core.observed import PodView

COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Span(click.ParamType[int]):
    """`90s`, `5m`, `1h30m`: seconds."""

    name = "span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not re.fullmatch(r"(\d+[smhd])+", text):
            self.fail(f"{text!r} is no span of time; write it like 90s, 5m or 1h30m", param, ctx)
        return max(1, sum(int(number) * UNIT_SECONDS[unit] for number, unit in re.findall(r"(\d+)([smhd])", text)))


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends, also into the next attempts.")
@click.option("--attempt", type=int, metavar="N", help="Pods of this attempt; without it of the current one.")
@click.option("-p", "--previous", is_flag=True, help="Pods of the attempt before the current one.")
@click.option("--worker", type=click.IntRange(min=0), metavar="I", help="Only the pod with this index.")
@click.option("--rank", type=click.IntRange(min=0), metavar="R", help="Only lines of this rank.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last lines of every pod.")
@click.option("--since", type=Span(), metavar="SPAN", help="Only lines of the last 90s, 5m, 1h30m.")
@click.option("--timestamps", is_flag=True, help="Print when a line was written.")
@cluster_options
@debug_option
def logs(
    job: str,
    follow: bool,
    attempt: int | None,
    previous: bool,
    worker: int | None,
    rank: int | None,
    tail: int | None,
    since: int | None,
    timestamps: bool,
    target: Target,
) -> None:
    """Print the output of all pods of JOB, in the order of time; what the pods wait for goes to the error output."""
    if previous and (follow or attempt is not None):
        raise click.UsageError("--previous names an attempt that is over: leave --follow and --attempt away")
    if worker is not None and rank is not None:
        raise click.UsageError("--rank names its worker by itself: leave --worker away")
    printer = Printer(timestamps=timestamps)

    async def run() -> None:
        async with connect(target) as api:
            found = typed(await read_job(api, target.namespace, job))
            choice = choose(
                found, attempt=attempt, previous=previous, worker=worker, rank=rank, tail=tail, since_seconds=since
            )
            if follow and found.status.phase not in ENDED:
                await Follower(api, found, choice, printer.emit, printer.say).run()
            else:
                await print_logs(api, found, choice, printer, target)

    asyncio.run(run())


class Printer:
    """Lines to the output, our own words to the error output."""

    def __init__(self, *, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._plain = not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR"))

    def emit(self, line: LogLine) -> None:
        stamp = f"{line.stamp} " if self._timestamps and line.stamp else ""
        colour = COLOURS[line.pod.index % len(COLOURS)]
        prefix = line.pod.name if self._plain else click.style(line.pod.name, fg=colour)
        click.echo(f"{prefix} {stamp}{line.text}", color=None if self._plain else True)

    def say(self, message: str) -> None:
        click.echo(f"[adts] {message}", err=True)


async def print_logs(api: Api, job: DistributedTraining, choice: Choice, printer: Printer, target: Target) -> None:
    """What the pods of one attempt have written so far, or what is kept of it."""
    attempt = choice.attempt or job.status.attempt
    views = [read_pod(pod).view for pod in await read_pods(api, job)]
    wanted = [pod for pod in views if choice.takes(pod, attempt)]
    for words in waiting_words(wanted):
        printer.say(words)
    started = sorted((pod for pod in wanted if has_log(pod)), key=lambda pod: pod.index)
    async for line in by_time([_read(api, job, pod, choice, printer) for pod in started]):
        printer.emit(line)
    if wanted:
        return
    kept = kept_output(job, attempt)
    if kept:
        printer.say(f"the pods of attempt {attempt} are gone; the end of the output that failed it was kept:")
        click.echo(kept)
        return
    printer.say(state_words(job))
    if attempt == job.status.attempt > 1 and job.status.phase not in ENDED:
        printer.say(f"no pods yet; the attempt before: {target.command(f'logs {job.metadata.name} --previous')}")
    else:
        printer.say(f"no pods of attempt {attempt}" if attempt else "no pods yet")


async def _read(
    api: Api, job: DistributedTraining, pod: PodView, choice: Choice, printer: Printer
) -> AsyncIterator[LogLine]:
    """The lines of a pod; one that vanishes meanwhile, or whose node is silent, does not keep the others back."""
    try:
        async for line in read_lines(api, job.metadata.namespace, pod, choice, **choice.query):
            yield line
    except ApiError as error:
        if error.status in FORBIDDEN:
            raise
        printer.say(f"{pod.name}: {error.message}")
