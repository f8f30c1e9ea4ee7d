"""`adts data`: token files from text, and what simple count models reach on them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click


@click.group()
def data() -> None:
    """Prepare data, and judge it."""


@data.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Token file to write (.bin)."
)
@click.option("--tokenizer", default="bytes", show_default=True, help="`bytes` or the path of a tokenizer.json.")
@click.option("--include", multiple=True, default=["*"], show_default=True, help="File names to take; repeatable.")
@click.option("--exclude", multiple=True, help="Names of files or folders to leave out; repeatable.")
@click.option("--holdout", default=0.0, type=click.FloatRange(0, 1, max_open=True), help="Fraction held out, by file.")
@click.option(
    "--limit", default=0, type=click.IntRange(min=0), help="Stop after the file that reaches this many bytes."
)
@click.option("--text-field", default="text", show_default=True, help="Field of a .jsonl line that holds the text.")
def prepare(
    sources: tuple[str, ...],
    out: Path,
    tokenizer: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    holdout: float,
    limit: int,
    text_field: str,
) -> None:
    """Tokenise files, folders and glob patterns into one token file (and <OUT>-val.bin with --holdout)."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from adts_trainer.data.prepare import hold_out, select_files, tokenize

    if out.suffix != ".bin":
        raise click.BadParameter(f"{out} must end in .bin: that is what spec.data.path looks for", param_hint="--out")
    if math.isnan(holdout):  # which no range refuses
        raise click.BadParameter("nan is no fraction; use a number from 0 to below 1", param_hint="--holdout")
    selection = select_files(sources, include, exclude, limit)
    splits = [(out, selection)]
    if holdout:
        training, held = hold_out(selection, holdout)
        splits = [(out, training), (out.with_name(f"{out.stem}-val.bin"), held)]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        for binary, split in splits:
            task = progress.add_task(binary.name, total=split.bytes)
            sidecar = tokenize(
                split, binary, tokenizer, text_field, lambda read, task=task: progress.advance(task, read)
            )
            progress.console.print(
                f"{binary}: {sidecar.tokens:,} tokens ({sidecar.dtype}, {sidecar.vocabulary_size} ids) "
                f"from {len(split.files):,} files, {split.bytes:,} bytes",
                soft_wrap=True,
                highlight=False,
            )


@data.command()
@click.argument("train", type=click.Path(path_type=Path))
@click.argument("held_out", type=click.Path(path_type=Path), metavar="VAL")
@click.option(
    "--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Also write them, for `adts report`."
)
def baselines(train: Path, held_out: Path, out: Path | None) -> None:
    """Nats per token that unigram, bigram and trigram counts of TRAIN reach on VAL: what a model should beat."""
    from adts_trainer.data.baselines import cross_entropies
    from adts_trainer.data.files import written_atomically
    from adts_trainer.data.memmap import open_tokens

    (tokens, sidecar), (held_tokens, held_sidecar) = open_tokens(train), open_tokens(held_out)
    known = [s.vocabulary_size for s in (sidecar, held_sidecar) if s]
    vocabulary = max(known) if known else 1 + int(max(tokens.max(), held_tokens.max()))
    result = cross_entropies(tokens, held_tokens, vocabulary)
    if out:
        with written_atomically(out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(f"{'count model':<12} nats per token on {held_out} ({len(held_tokens):,} tokens)")
    for name, value in result.items():
        click.echo(f"{name:<12} {value:.3f}")
