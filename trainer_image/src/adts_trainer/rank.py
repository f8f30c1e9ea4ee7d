"""One rank: the body of the process that the launcher forks. Every ending is an exit code of the contract."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import torch
import torch._dynamo  # optimizers and FSDP2 import it at first use, a second in each rank; here, before the fork
import yaml

from adts_api.contract import ExitCode
from adts_api.errors import ConfigError
from adts_api.v1alpha1 import DistributedTraining
from adts_api.validate import parse
from adts_trainer.context import RankContext
from adts_trainer.errors import classify
from adts_trainer.heartbeat import HeartbeatWriter
from adts_trainer.train import train


def run(context: RankContext, config_path: str) -> NoReturn:
    """Train as one rank and leave with an exit code of the contract; never returns.

    The last heartbeat carries the exit code and, after a failure, its message. SIGTERM asks for a save and an end;
    SIGINT is the launcher's business.
    """
    heartbeat = HeartbeatWriter(context.heartbeat_path, context.round)
    code = _run(context, config_path, heartbeat)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # neither atexit handlers nor destructors: a broken process group would wait in them


def _run(context: RankContext, config_path: str, heartbeat: HeartbeatWriter) -> ExitCode:
    told_to_stop = False

    def on_term(number: int, frame: object) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    try:
        signal.signal(signal.SIGTERM, on_term)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(context.threads)
        heartbeat.update(phase="starting", force=True)
        train(_load(config_path), context, heartbeat, lambda: told_to_stop)
    except BaseException as error:  # noqa: BLE001 - every failure becomes an exit code, SystemExit of a user's model too
        code, message = classify(error)
        if code is ExitCode.CRASH:
            traceback.print_exc()
        heartbeat.update(phase="failed", error=message, exit_code=int(code), force=True)
        return code
    heartbeat.update(exit_code=int(ExitCode.OK), force=True)
    return ExitCode.OK


def _load(path: str) -> DistributedTraining:
    try:
        manifest = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    return parse(manifest, path)
