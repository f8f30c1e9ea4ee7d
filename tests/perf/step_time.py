"""One rank of the step-time benchmark: our loop and a bare torch DDP loop in turns, in the same processes.

Both train the same model on the same samples with the same optimizer. The bare loop is what a user would write:
DistributedDataParallel with its defaults, mean cross-entropy, `clip_grad_norm_`, fused AdamW.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch.nn.parallel import DistributedDataParallel

from adts_api.topology import topology
from adts_api.validate import parse
from adts_trainer.context import RankContext
from adts_trainer.data_loader import open_dataset
from adts_trainer.distributed_setup import Processes, open_processes
from adts_trainer.heartbeat import HeartbeatWriter
from adts_trainer.model import build_model, initial_parameter
from adts_trainer.sampler import dropout_keys, sample_ids
from adts_trainer.session import open_session

WARM_UP, BLOCK, ROUNDS = 10, 10, 12


def bare_loop(job, processes: Processes) -> Callable[[int], None]:
    """A function that runs n steps of the plain loop."""
    spec = job.spec
    dataset = open_dataset(
        spec.data, path=None, seed=0, cache_dir=Path("/tmp"), is_local_lead=True, barrier=lambda: None, model=spec.model
    )
    built = build_model(spec.model, spec.data, dataset.facts, seed=0, dtype=torch.float32)
    built.module.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in built.module.named_parameters():
            parameter.copy_(initial_parameter(built.module, name, parameter.shape, parameter.dtype, 0))
    model = DistributedDataParallel(built.module)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    share = spec.training.global_batch_size // processes.data_ranks
    position = processes.data_rank * share

    def run(steps: int) -> None:
        nonlocal position
        for _ in range(steps):
            ids = sample_ids(0, len(dataset), True, position, share)
            batch = dataset.batch(ids, dropout_keys(0, 0, ids))
            position += spec.training.global_batch_size
            logits = model(batch.inputs, batch.keys)
            loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def our_loop(job, context: RankContext, processes: Processes) -> Callable[[int], None]:
    """A function that runs n steps of ours, as `train` does: the step, its record, the look at the checkpointer."""
    session = open_session(job, context, processes, HeartbeatWriter(context.heartbeat_path, 0))
    session.restore()

    def run(steps: int) -> None:
        for _ in range(steps):
            result = session.run_step(False)
            session.metrics.record(session.state, result)

    return run


def run_rank(context: RankContext, config: str) -> None:
    """Time both loops in turns; the lead writes the seconds of every block to `times.json` beside the config."""
    torch.set_num_threads(context.threads)
    job = parse(yaml.safe_load(Path(config).read_text()))
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    with open_processes(context, topology(job.spec)) as processes:
        loops = {"bare": bare_loop(job, processes), "ours": our_loop(job, context, processes)}
        for loop in loops.values():
            loop(WARM_UP)
        for turn in range(ROUNDS):
            order = list(loops) if turn % 2 else list(reversed(loops))
            for name in order:
                processes.barrier()
                begin = time.perf_counter()
                loops[name](BLOCK)
                processes.barrier()
                seconds[name].append((time.perf_counter() - begin) / BLOCK)
    if context.is_lead:
        (Path(config).parent / "times.json").write_text(json.dumps(seconds))
