"""`adts validate`: every error of every manifest."""

from __future__ import annotations

from pathlib import Path

import click

from adts_api import manifest
from adts_api.contract import ExitCode
from adts_api.errors import AdtsError
from adts_api.validate import parse
from adts_operator.commands.options import debug_option


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@debug_option
def validate(files: tuple[Path, ...]) -> None:
    """Check manifests: prints every error, exits 0 or 2."""
    messages: list[str] = []
    for file in files:
        try:
            documents = manifest.load_all(file)
        except AdtsError as error:
            messages.append(str(error))
            continue
        for number, document in enumerate(documents, start=1):
            source = str(file) if len(documents) == 1 else f"{file}: document {number}"
            try:
                job = parse(document, source)
            except AdtsError as error:
                messages.append(str(error))
            else:
                click.echo(f"{source}: {job.metadata.name} is valid")
    if messages:
        click.echo("\n".join(messages), err=True)
        raise SystemExit(ExitCode.BAD_CONFIG)
