"""`adts render`: what the operator would create for a manifest."""

from __future__ import annotations

from pathlib import Path

import click
import yaml

from adts_api.validate import parse
from adts_operator.commands.options import debug_option, load_manifest, manifest_argument, set_option
from adts_operator.core.build import Defaults, build_missing

UID = "00000000-0000-0000-0000-000000000000"
"""Stands in for the UID that the API server gives."""


@click.command()
@manifest_argument
@set_option
@debug_option
def render(file: Path, assignments: tuple[str, ...]) -> None:
    """Print the Service, ConfigMap, Secret and Pods of a manifest's first attempt, as YAML."""
    job = parse(load_manifest(file, assignments), str(file))
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": UID})})
    objects = build_missing(job, 1, range(job.spec.workers.replicas), frozenset(), Defaults())
    click.echo(yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True), nl=False)


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block, everything written out where it stands."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
