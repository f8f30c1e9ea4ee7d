"""`adts top`: all jobs at a glance, live."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import time
import tty
from collections.abc import Iterator

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from adts_api.v1alpha1 import PLURAL, DistributedTraining
from adts_operator.cluster.api import collection
from adts_operator.commands.cluster_options import Target, cluster_options, connect
from adts_operator.commands.options import debug_option
from adts_operator.commands.reads import typed
from adts_operator.commands.screen import make_console
from adts_operator.commands.tables import top_table
from adts_operator.commands.watched import Watched, kept

REFRESH_SECONDS = 1.0
FRAME_ROWS = 6
"""Lines of the screen around the jobs: sums, header, and the line below."""
ALL_ROWS = 1_000_000
KEYS_AT_ONCE = 64


@click.command()
@click.option("-A", "--all-namespaces", is_flag=True, help="Jobs of all namespaces.")
@click.option("--once", is_flag=True, help="Print the table once and end; so it does in a pipe.")
@cluster_options
@debug_option
def top(all_namespaces: bool, once: bool, target: Target) -> None:
    """Show all jobs of a namespace live: progress, GPUs, GPU hours, restarts. Ends with q or Ctrl-C.

    GPU-H are the hours of GPUs used so far, KEPT the share of them spent on steps that no restart has lost, FAILS the
    attempts that count against runPolicy.backoffLimit.
    """
    console = make_console()
    live = console.is_terminal and sys.stdin.isatty() and not once
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_top(console, target, all_namespaces=all_namespaces, live=live))


async def _top(console: Console, target: Target, *, all_namespaces: bool, live: bool) -> None:
    async with connect(target) as api:
        path = collection(PLURAL, "" if all_namespaces else target.namespace)
        jobs = Watched(api, path, typed, asyncio.Event())
        await jobs.load()
        if live:
            await _show(console, jobs, with_namespace=all_namespaces)
        else:
            found = list(jobs.objects.values())
            console.print(top_table(found, time.time(), with_namespace=all_namespaces, rows=ALL_ROWS))


async def _show(console: Console, jobs: Watched[DistributedTraining], *, with_namespace: bool) -> None:
    """Draws until somebody types q."""

    def draw() -> RenderableType:
        rows = max(1, console.height - FRAME_ROWS)
        table = top_table(list(jobs.objects.values()), time.time(), with_namespace=with_namespace, rows=rows)
        return Group(table, Text(), Text(jobs.problem or "q ends", style="red" if jobs.problem else "dim"))

    async with kept(jobs):
        with keys() as typed_q, Live(console=console, get_renderable=draw, screen=True, auto_refresh=False) as screen:
            while not typed_q.is_set():
                screen.refresh()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(typed_q.wait(), REFRESH_SECONDS)


@contextlib.contextmanager
def keys() -> Iterator[asyncio.Event]:
    """An event that is set when somebody types q; the terminal gives single keys meanwhile."""
    typed_q = asyncio.Event()
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def read() -> None:
        if os.read(stdin, KEYS_AT_ONCE).lower() in (b"", b"q"):
            typed_q.set()

    tty.setcbreak(stdin)
    asyncio.get_running_loop().add_reader(stdin, read)
    try:
        yield typed_q
    finally:
        asyncio.get_running_loop().remove_reader(stdin)
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
