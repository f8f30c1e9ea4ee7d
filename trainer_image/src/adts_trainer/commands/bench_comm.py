"""`adts bench comm`: what gradient compression is worth on a link, measured by whoever has the link."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def bench() -> None:
    """Measure what this machine, or the network between several, can do."""


@bench.command()
@click.option("--processes", default=2, show_default=True, type=click.IntRange(min=2), help="Local ranks to start.")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="MIB",
    help="Size of the gradients; repeat for more.  [default: 1, 16, 64]",
)
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Compressor; repeat for more.  [default: all]")
@click.option("--repetitions", default=3, show_default=True, type=click.IntRange(min=1), help="Timed sums of each.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="gloo or NCCL.")
@click.option(
    "--json", "data", type=click.Path(dir_okay=False, path_type=Path), help="Also write the numbers to this file."
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also draw a PNG into this file.")
def comm(
    processes: int,
    sizes: tuple[float, ...],
    methods: tuple[str, ...],
    repetitions: int,
    device: str,
    data: Path | None,
    plot: Path | None,
) -> None:
    """Sum gradients with each compressor: seconds, bytes sent, error, and which method pays when.

    Starts local processes. Where RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set (by torchrun, or in a pod) it is
    one of the processes of that job instead, and rank 0 prints.
    """
    import json
    import os
    import platform

    import torch

    from adts_trainer.communication import bench_ranks, bench_report
    from adts_trainer.communication.bench import METHODS
    from adts_trainer.communication.bench_report import Row
    from adts_trainer.data.files import written_atomically

    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise click.BadParameter(f"{unknown[0]} is none of {', '.join(METHODS)}", param_hint="--method")
    request = bench_ranks.Request(methods or METHODS, sizes or (1, 16, 64), repetitions, device)
    is_job = all(name in os.environ for name in bench_ranks.VARIABLES)
    ranks = int(os.environ["WORLD_SIZE"]) if is_job else processes
    found = bench_ranks.joined(request, os.environ) if is_job else bench_ranks.local(request, ranks)
    says = not is_job or os.environ["RANK"] == "0"

    link, rows = None, []
    for each in found:
        if isinstance(each, Row):
            rows.append(each)
            text = bench_report.line(each, rows)
        else:
            link = each
            text = f"{bench_report.describe(link, ranks)}\n\n{bench_report.HEADER}"
        if says:
            click.echo(text)
    if not says or link is None:
        return
    click.echo(f"\n{bench_report.advice(rows)}")
    machine = f"torch {torch.__version__}, {'nccl' if device == 'cuda' else 'gloo'}, {platform.machine()}"
    if data is not None:
        with written_atomically(data) as temporary:
            temporary.write_text(json.dumps(bench_report.as_json(rows, link, ranks, machine), indent=1) + "\n")
    if plot is not None:
        with written_atomically(plot) as temporary:
            bench_report.draw(rows, bench_report.describe(link, ranks), temporary)
