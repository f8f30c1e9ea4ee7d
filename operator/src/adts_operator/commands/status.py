"""`adts status`: the jobs of a namespace in a table, or one job on a page."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import click
import yaml

from adts_api.v1alpha1 import PLURAL
from adts_operator.cluster.api import Object, collection
from adts_operator.commands.cluster_options import Target, cluster_options, connect
from adts_operator.commands.options import debug_option
from adts_operator.commands.pages import status_page
from adts_operator.commands.reads import read_all, read_job, typed
from adts_operator.commands.screen import make_console
from adts_operator.commands.tables import status_table


@click.command()
@click.argument("job", required=False)
@click.option("-A", "--all-namespaces", is_flag=True, help="Jobs of all namespaces.")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="A table, or the objects themselves.",
)
@cluster_options
@debug_option
def status(job: str | None, all_namespaces: bool, form: str, target: Target) -> None:
    """Show the jobs of a namespace, or one JOB on a page.

    TRY is the number of the attempt, FAILS those that count against runPolicy.backoffLimit, SAVED the step of the
    newest checkpoint.
    """
    if job and all_namespaces:
        raise click.UsageError("JOB is in one namespace: use -n NAMESPACE in the place of -A")
    found = asyncio.run(_read(target, job, all_namespaces))
    if form != "table":
        _dump(found[0] if job else {"apiVersion": "v1", "kind": "List", "items": found}, form)
        return
    console, now = make_console(), time.time()
    if job:
        console.print(status_page(typed(found[0]), now))
    elif found:
        console.print(status_table(map(typed, found), now, with_namespace=all_namespaces))
    else:
        where = "" if all_namespaces else f" in the namespace {target.namespace}"
        click.echo(f"no jobs{where}", err=True)


async def _read(target: Target, job: str | None, all_namespaces: bool) -> list[Object]:
    async with connect(target) as api:
        if job:
            return [await read_job(api, target.namespace, job)]
        return await read_all(api, collection(PLURAL, "" if all_namespaces else target.namespace))


def _dump(found: dict[str, Any], form: str) -> None:
    """As kubectl prints it: without the book-keeping of server-side apply."""
    for thing in found.get("items", [found]):
        thing["metadata"].pop("managedFields", None)
    text = json.dumps(found, indent=2) if form == "json" else yaml.safe_dump(found, sort_keys=False)
    click.echo(text.rstrip())
