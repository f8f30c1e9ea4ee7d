"""`adts report`: one page and one plot of a finished or running job."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--baselines", type=click.Path(path_type=Path), help="JSON of `adts data baselines`: lines to beat.")
def report(run: Path, baselines: Path | None) -> None:
    """Write report.md and loss.png into the folder RUN of `adts run` (such as runs/quickstart)."""
    from rich.console import Console
    from rich.markdown import Markdown

    from adts_trainer.report import write_report

    Console().print(Markdown(write_report(run, baselines)))
