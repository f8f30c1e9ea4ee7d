"""The first lines of a rank, right after the fork: its own session, output, signals and environment. No torch here."""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from adts_api.contract import Env, ExitCode
from adts_trainer.context import RankContext
from adts_trainer.launch.lifeline import die_with_parent

RankTarget = Callable[[RankContext, str], None]


def start_rank(target: str, context: RankContext, config_path: str, output: Connection) -> None:
    """Runs `package.module:function` as a rank; its stdout and stderr are `output`."""
    die_with_parent(os.getppid())
    launcher = multiprocessing.parent_process()
    if launcher is not None and not launcher.is_alive():
        os._exit(ExitCode.LOST_PEER)  # it died between the fork and the line above
    os.setsid()  # one group to kill with all its children; Ctrl-C does not reach it
    for fd in (1, 2):
        os.dup2(output.fileno(), fd)
    output.close()
    _dump_stacks_on_request(context)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until the target can save, there is nothing to save
    os.environ.update(environment(context))
    resolve(target)(context, config_path)


def environment(context: RankContext) -> dict[str, str]:
    """What torch and user code expect to find in a rank."""
    return {
        Env.MASTER_ADDR: context.master_addr,
        Env.MASTER_PORT: str(context.master_port),
        Env.WORLD_SIZE: str(context.world_size),
        Env.LOCAL_WORLD_SIZE: str(context.local_world_size),
        Env.NNODES: str(context.nnodes),
        Env.NODE_RANK: str(context.node_rank),
        Env.RANK: str(context.rank),
        Env.LOCAL_RANK: str(context.local_rank),
    }


def resolve(target: str) -> RankTarget:
    """The function at `package.module:function`."""
    module, _, name = target.partition(":")
    found: RankTarget = getattr(importlib.import_module(module), name)
    return found


def _dump_stacks_on_request(context: RankContext) -> None:
    """SIGUSR1 writes all Python stacks to a file. Ignored until then: the launcher asks only where the file exists."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1, file=context.stacks_path.open("w"), all_threads=True)
