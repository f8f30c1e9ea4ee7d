"""The `adts` command: finds subcommands, turns errors into one message and an exit code of the contract.

Nothing is imported before it is needed: `adts --help` answers at once, and no subcommand loads torch for another one.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import click

from adts_api.contract import ExitCode
from adts_api.errors import AdtsError
from adts_operator import __version__

COMMANDS = {
    "run": "Train a manifest on this machine.",
    "validate": "Check manifests.",
    "plan": "Say which layouts of a job fit its GPUs, and which is fastest.",
    "render": "Print the objects that the operator would create.",
    "status": "Show the jobs on a cluster, or one of them.",
    "top": "Show all jobs on a cluster live.",
    "logs": "Print the output of all pods of a job.",
    "describe": "Say why a job is in its state, and what to do.",
}
"""Our own subcommands, in modules of the same name below `adts_operator.commands`."""

KUBECTL_COMMANDS = ("status", "top", "logs", "describe", "validate", "render")
"""Those that `kubectl dtrain` has too."""

ENTRY_POINTS = "adts.commands"
"""Where other distributions add theirs: the trainer's are absent from the operator's image."""


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, not when it is listed."""

    @cached_property
    def _plugins(self) -> dict[str, importlib.metadata.EntryPoint]:
        return {it.name: it for it in importlib.metadata.entry_points(group=ENTRY_POINTS)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(self._plugins.keys() - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            command: click.Command = getattr(importlib.import_module(f"adts_operator.commands.{name}"), name)
            return command
        if name in self._plugins:
            loaded: click.Command = self._plugins[name].load()
            return loaded
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does it, but without importing the commands for their help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx) if name in COMMANDS])
        plugins = [name for name in self.list_commands(ctx) if name not in COMMANDS]
        if plugins:
            with formatter.section("Commands of the trainer"):
                formatter.write_dl([(name, f"See `adts {name} --help`.") for name in plugins])


class KubectlGroup(LazyGroup):
    """The commands that belong beside kubectl: nothing of this machine, nothing of the trainer's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(KUBECTL_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return super().get_command(ctx, name) if name in KUBECTL_COMMANDS else None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an unexpected error.")
@click.version_option(__version__, prog_name="adts")
def adts() -> None:
    """Train models on many GPUs from one manifest, on Kubernetes or on this machine."""


@click.group(cls=KubectlGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an unexpected error.")
@click.version_option(__version__, prog_name="kubectl dtrain")
def dtrain() -> None:
    """See the training jobs of a cluster: how far they are, what they print, why they wait."""


def main(arguments: Sequence[str] | None = None, program: str = "adts") -> NoReturn:
    """Runs the command line and exits."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    group = adts if program == "adts" else dtrain
    try:
        code = group.main(args=words, prog_name=program, standalone_mode=False)
    except AdtsError as error:
        if debug:
            traceback.print_exc()
        _fail(program, str(error), getattr(error, "code", error.exit_code))
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.BAD_CONFIG)
    except (click.Abort, KeyboardInterrupt):
        _fail(program, "interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        sys.exit(ExitCode.OK)
    except Exception as error:  # noqa: BLE001  a bug of ours: short on screen, whole on request
        if debug:
            traceback.print_exc()
        _fail(program, _bug(error, debug=debug), ExitCode.CRASH)
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


def kubectl_dtrain() -> NoReturn:
    """`kubectl dtrain`: kubectl runs the program `kubectl-dtrain` of the PATH."""
    main(program="kubectl dtrain")


def _bug(error: Exception, *, debug: bool) -> str:
    message = f"unexpected error, probably a bug: {type(error).__name__}: {error}"
    if debug:
        return message
    with tempfile.NamedTemporaryFile("w", prefix="adts-", suffix=".log", delete=False) as file:
        traceback.print_exc(file=file)
    return f"{message}\ntraceback in {Path(file.name)}; --debug shows it here"


def _fail(program: str, message: str, code: int) -> NoReturn:
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(code)
