"""`adts selfcheck`: the parity matrix on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from adts_api.contract import ExitCode


@click.command()
@click.option("--quick", is_flag=True, help="About ten cells that touch everything; two minutes on two cores.")
@click.option("--only", multiple=True, metavar="TEXT", help="Cells with TEXT in their name; repeat to ask for more.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to run.")
@click.option(
    "--json", "data", type=click.Path(dir_okay=False, path_type=Path), help="Also write the result to this file."
)
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page to this file.")
def selfcheck(quick: bool, only: tuple[str, ...], device: str, data: Path | None, markdown: Path | None) -> None:
    """Train in every supported layout and compare with one process; exits 1 when a cell is over its tolerance."""
    import json

    import torch
    from rich.console import Console

    from adts_trainer.selfcheck.cells import CELLS
    from adts_trainer.selfcheck.matrix import run_matrix
    from adts_trainer.selfcheck.report import as_json, as_markdown

    torch.set_num_threads(1)
    chosen = [cell for cell in CELLS if (cell.quick or not quick) and all(text in cell.name for text in only)]
    if not chosen:
        raise click.BadParameter(f"no cell has {' and '.join(map(repr, only))} in its name", param_hint="--only")
    console = Console(highlight=False)
    report = run_matrix(chosen, device, console)
    console.print(report.summary, soft_wrap=True)
    if data is not None:
        write(data, json.dumps(as_json(report), indent=1) + "\n")
    if markdown is not None:
        write(markdown, as_markdown(report))
    if report.failed:
        raise SystemExit(ExitCode.CRASH)


def write(path: Path, text: str) -> None:
    """A file that is whole or absent. Raises StorageError."""
    from adts_trainer.data.files import written_atomically

    with written_atomically(path) as temporary:
        temporary.write_text(text)
