"""The ranks of `adts bench comm`: forked on this machine, or this process as one that something else started."""

from __future__ import annotations

import multiprocessing.connection
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

from adts_api.errors import AdtsError
from adts_api.topology import Topology
from adts_trainer.communication.bench import run
from adts_trainer.communication.bench_report import Row
from adts_trainer.communication.prediction import Link
from adts_trainer.communication.probe import measure_link
from adts_trainer.communication.wire import Wire
from adts_trainer.context import RankContext
from adts_trainer.distributed_setup import open_processes
from adts_trainer.errors import StartTimeoutError, classify
from adts_trainer.launch.ranks import FORKS, warm_up
from adts_trainer.selfcheck.runner import Place, free_port

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torch's env:// reads: set by torchrun, and by the contract where a pod holds one process."""
_START = timedelta(minutes=5)


@dataclass(frozen=True)
class Request:
    """What is to be measured, alike on all ranks."""

    methods: tuple[str, ...]
    sizes: tuple[float, ...]
    """MiB of fp32 gradients."""
    repetitions: int
    device: str
    """cpu or cuda."""


def local(request: Request, ranks: int) -> Iterator[Link | Row]:
    """The link, then the rows, from processes forked for it. Raises AdtsError for what ends one of them."""
    warm_up(("adts_trainer.communication.bench_ranks",))
    ours, theirs = FORKS.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="adts-bench-") as folder:
        threads = max(1, (os.cpu_count() or 1) // ranks)
        place = Place(Path(folder), free_port())
        contexts = [place.context(it, ranks, device=request.device, threads=threads) for it in range(ranks)]
        processes = [FORKS.Process(target=_serve, args=(request, it, theirs), daemon=True) for it in contexts]
        try:
            for process in processes:
                process.start()
            theirs.close()
            yield from _received(ours, [process.sentinel for process in processes])
        finally:
            for process in processes:
                process.kill()
                process.join()


def joined(request: Request, environ: Mapping[str, str]) -> Iterator[Link | Row]:
    """The same as one rank of a job, as its environment says. All ranks get everything. Raises StartTimeoutError."""
    device = torch.device("cpu")
    if request.device == "cuda":
        device = torch.device("cuda", int(environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_START)
    except (dist.DistError, RuntimeError) as error:
        where = f"{environ['MASTER_ADDR']}:{environ['MASTER_PORT']}"
        raise StartTimeoutError(
            f"MASTER_ADDR: not all {environ['WORLD_SIZE']} processes met at {where} ({str(error).splitlines()[0]}); "
            "start all of them, and check that the address can be reached"
        ) from error
    yield from _measured(request, device)
    dist.destroy_process_group()


def _measured(request: Request, device: torch.device) -> Iterator[Link | Row]:
    wire = Wire(dist.group.WORLD)  # type: ignore[arg-type]
    yield measure_link(wire, device)
    yield from run(wire, device, request.methods, request.sizes, request.repetitions)


def _serve(request: Request, context: RankContext, pipe: Connection) -> None:
    torch.set_num_threads(context.threads)
    try:
        with open_processes(context, Topology(1, context.world_size, 1, 1)) as processes:
            for found in _measured(request, processes.device):
                if context.is_lead:
                    pipe.send(found)
        if context.is_lead:
            pipe.send(None)
    except Exception as error:  # noqa: BLE001  whatever it is, the command must say it
        pipe.send(classify(error)[1])
        raise SystemExit(1) from None


def _received(pipe: Connection, sentinels: Sequence[int]) -> Iterator[Link | Row]:
    while True:
        multiprocessing.connection.wait([pipe, *sentinels])
        found = pipe.recv() if pipe.poll(1.0) else "a rank was killed; is there enough memory?"
        if found is None:
            return
        if isinstance(found, str):
            raise AdtsError(f"bench comm: {found}")
        yield found
