"""`adts describe`: why a job is in its state, and what to do about it."""

from __future__ import annotations

import asyncio
import time

import click
from rich.console import RenderableType

from adts_operator.cluster.pod_views import read_pod
from adts_operator.commands.cluster_options import Target, cluster_options, connect
from adts_operator.commands.explanation import describe_page, next_command
from adts_operator.commands.options import debug_option
from adts_operator.commands.reads import read_events, read_job, read_pods, typed
from adts_operator.commands.screen import make_console
from adts_operator.core.waiting import STARTING_UP

MOST_UNTOLD = 4
"""Pods whose own events are read, because their status says too little; the others wait for the same."""


@click.command()
@click.argument("job")
@cluster_options
@debug_option
def describe(job: str, target: Target) -> None:
    """Say why JOB is in its state: conditions, pods, restarts, events, and what to do about them."""
    page, following = asyncio.run(_read(target, job))
    console = make_console()
    console.print(page)
    console.print(f"  {following}", markup=False, soft_wrap=True)  # whole, to be copied


async def _read(target: Target, name: str) -> tuple[RenderableType, str]:
    async with connect(target) as api:
        job = typed(await read_job(api, target.namespace, name))
        found = await read_pods(api, job)
        pods = [(pod, read_pod(pod).view) for pod in found]
        untold = [pod for pod, view in pods if view.phase == "Pending" and view.reason in STARTING_UP]
        events = await read_events(api, job, untold[:MOST_UNTOLD])
        views = [view for _, view in pods]
        return describe_page(job, views, events, time.time()), next_command(job, views, target)
