"""A real launcher with a toy rank instead of the trainer: `python -m support.launcher_process JSON`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any


def main(options: dict[str, Any]) -> int:
    """Runs one launcher; `config` is the toy's script, `limits` and the rest are settings.

    The imports are here because every rank imports this module again, as multiprocessing does with a main module.
    """
    from adts_trainer.launch.agreement import Limits
    from adts_trainer.launch.launcher import launch
    from adts_trainer.launch.output import Writer
    from adts_trainer.launch.ranks import warm_up
    from adts_trainer.launch.settings import LauncherSettings

    config = Path(options.pop("config"))
    limits = replace(Limits(), **options.pop("limits", {}))
    termination = options.pop("termination_path", None)
    settings = LauncherSettings(
        config_path=config,
        limits=limits,
        termination_path=Path(termination) if termination else None,
        preload=tuple(options.pop("preload", ["support.launcher_targets"])),
        **options,
    )
    warm_up(settings.preload)
    writer = Writer(sys.stdout.buffer)
    outcome = launch(settings, config, writer)
    writer.close()
    print(outcome.message, file=sys.stderr)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
