"""Arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def manifest_argument(command: Command) -> Command:
    """FILE: one manifest."""
    return click.argument("file", type=click.Path(path_type=Path))(command)


def set_option(command: Command) -> Command:
    """--set path=value, any number of times."""
    return click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="PATH=VALUE",
        help="Change one field, such as training.steps=100; may be repeated.",
    )(command)


def debug_option(command: Command) -> Command:
    """--debug, read by `cli.main`: the command itself does not see it."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an unexpected error.")(
        command
    )


def load_manifest(file: Path, assignments: Iterable[str]) -> dict[str, Any]:
    """The manifest of a file with `--set` applied. Raises AdtsError."""
    from adts_api import manifest

    loaded = manifest.load(file)
    for assignment in assignments:
        loaded = manifest.set_value(loaded, assignment)
    return loaded
