"""Entry point of a pod: the launcher, or with the name of a command (`data`, `sample`, ...) that command."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from adts_api.contract import ExitCode, exit_reason
from adts_api.errors import AdtsError
from adts_trainer.launch.settings import LauncherSettings, read_settings

RUNS = Path("runs")
"""Where the quick start puts its folder, below the current one."""

USAGE = """\
usage: python -m adts_trainer [--debug]          run this pod as its environment says, or the built-in job
       python -m adts_trainer COMMAND [OPTIONS]  one of: {commands}
"""


def main() -> NoReturn:
    """Runs the command line and exits with a code of the contract."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code of a command line."""
    commands = {each.name: each for each in importlib.metadata.entry_points(group="adts.commands")}
    match list(arguments):
        case [] | ["--debug"]:
            return run_launcher(debug="--debug" in arguments)
        case [name, *rest] if name in commands:
            commands[name].load().main(args=rest, prog_name=f"python -m adts_trainer {name}")
            return ExitCode.OK
        case ["--help" | "-h", *_]:
            print(USAGE.format(commands=", ".join(sorted(commands))), end="")
            return ExitCode.OK
        case _:
            print(USAGE.format(commands=", ".join(sorted(commands))), end="", file=sys.stderr)
            return ExitCode.BAD_CONFIG


def run_launcher(*, debug: bool) -> int:
    """Runs the pod; failures a user can act on end in one message."""
    signal.signal(signal.SIGTERM, _leave_early)
    try:
        settings = read_settings(os.environ)
        outcome_code, message = _launch(settings)
    except AdtsError as error:
        if debug:
            traceback.print_exc()
        outcome_code, message = error.exit_code, str(error)
    if outcome_code != ExitCode.OK:
        print(f"[launcher] {exit_reason(outcome_code)}: {message}", file=sys.stderr, flush=True)
    return outcome_code


def _launch(settings: LauncherSettings) -> tuple[int, str]:
    """The fork server imports torch while this process imports the rest and reads the manifest."""
    from adts_trainer.launch.ranks import warm_up

    warm_up(settings.preload)

    from adts_api import manifest
    from adts_api.validate import parse
    from adts_trainer.launch.launcher import launch
    from adts_trainer.launch.output import Writer
    from adts_trainer.launch.quickstart import new_run_folder, write_default_job

    path = settings.config_path or write_default_job(settings, new_run_folder(RUNS))
    job = parse(manifest.load(path), str(path))
    permanent = settings.limits.permanent | set(job.spec.run_policy.permanent_exit_codes)
    settings = replace(settings, limits=replace(settings.limits, permanent=permanent))
    writer = Writer(sys.stdout.buffer)
    try:
        outcome = launch(settings, path, writer)
    finally:
        writer.close()
    return outcome.exit_code, outcome.message


def _leave_early(number: int, frame: FrameType | None) -> NoReturn:
    """Told to stop before there was anything to save."""
    sys.exit(ExitCode.PREEMPTED)
