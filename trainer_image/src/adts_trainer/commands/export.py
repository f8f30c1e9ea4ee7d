"""`adts export`: the weights of a checkpoint as one safetensors file."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="CHECKPOINT_OR_RUN_DIR")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write (.safetensors)."
)
def export(folder: Path, out: Path) -> None:
    """Write the newest checkpoint of a run as one model.safetensors."""
    from adts_trainer.weights import find_checkpoint, load_weights, save_safetensors

    found = find_checkpoint(folder)
    weights = load_weights(found.directory)
    size = save_safetensors(out, weights, found.card, found.step)
    parameters = sum(tensor.numel() for tensor in weights.values())
    click.echo(f"{out}: step {found.step}, {parameters:,} parameters, {size:,} bytes")
