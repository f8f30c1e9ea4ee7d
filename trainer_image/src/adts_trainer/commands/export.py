"""`adts export`: the weights of a checkpoint as one safetensors file, or as a folder of Hugging Face."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="CHECKPOINT_OR_RUN_DIR")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write, or folder for huggingface.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["safetensors", "huggingface"]),
    default="safetensors",
    show_default=True,
    help="One .safetensors file, or a folder that transformers loads.",
)
def export(folder: Path, out: Path, form: str) -> None:
    """Write the weights of a run's newest checkpoint for other programs."""
    from adts_trainer.export import export_weights
    from adts_trainer.weights import find_checkpoint

    found = find_checkpoint(folder)
    exported = export_weights(found, form, out)
    click.echo(f"{out}: step {found.step}, {exported.parameters:,} parameters, {exported.size:,} bytes")
