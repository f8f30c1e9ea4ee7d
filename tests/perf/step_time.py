"""One rank of a step-time benchmark: our loop and a bare library loop in turns, in the same processes.

Both train the same model on the same samples with the same optimizer; see `bare_loops`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
import yaml

from adts_api.topology import topology
from adts_api.v1alpha1 import DistributedTraining
from adts_api.validate import parse
from adts_trainer.context import RankContext
from adts_trainer.distributed_setup import Processes, open_processes
from adts_trainer.heartbeat import HeartbeatWriter
from adts_trainer.session import Session, open_session
from perf.bare_loops import LOOPS, Run

WARM_UP, BLOCK, ROUNDS = 10, 10, 12
TIMES = "times.json"


def our_session(job: DistributedTraining, context: RankContext, processes: Processes) -> Session:
    """A training of ours that is ready for its first step."""
    session = open_session(job, context, processes, HeartbeatWriter(context.heartbeat_path, 0))
    session.restore()
    return session


def our_loop(session: Session) -> Run:
    """A function that runs n steps of ours, as `train` does: the step, its record, the look at the checkpointer."""

    def run(steps: int) -> None:
        for _ in range(steps):
            result = session.run_step(False)
            session.metrics.record(session.state, result)

    return run


def run_rank(context: RankContext, config: str, bare: str = "ddp", rounds: int = ROUNDS, block: int = BLOCK) -> None:
    """Time both loops in turns; the lead writes the seconds per step of every block to `times.json` beside the config.

    `bare` is one of `bare_loops.LOOPS`.
    """
    torch.set_num_threads(context.threads)
    job = parse(yaml.safe_load(Path(config).read_text()))
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    with open_processes(context, topology(job.spec)) as processes:
        loops = {"bare": LOOPS[bare](job, processes), "ours": our_loop(our_session(job, context, processes))}
        for loop in loops.values():
            loop(WARM_UP)
        for turn in range(rounds):
            order = list(loops) if turn % 2 else list(reversed(loops))
            for name in order:
                processes.barrier()
                begin = time.perf_counter()
                loops[name](block)
                processes.barrier()
                seconds[name].append((time.perf_counter() - begin) / block)
    if context.is_lead:
        (Path(config).parent / TIMES).write_text(json.dumps(seconds))
