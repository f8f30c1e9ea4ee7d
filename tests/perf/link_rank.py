"""One rank of the link benchmark, in a network namespace of its own: `python -m perf.link_rank REQUEST RANK`.

All variants live in the same processes and take turns step by step, so that what slows the machine down meanwhile slows
all of them. Between two links each rank shapes its own end of the cable.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from adts_api.topology import topology
from adts_api.v1alpha1 import Spec
from adts_trainer.context import RankContext
from adts_trainer.distributed_setup import Processes, open_processes
from adts_trainer.launch.lifeline import die_with_parent
from adts_trainer.selfcheck.cells import merged
from perf.bare_loops import Task
from perf.link import ADDRESSES, DEVICE, sent_bytes, shape
from perf.link_variants import AUTO, OVERLAPPED, Auto, Builder, Variant

RESULTS = "results.json"
WARM_UP = 3
"""Steps of every variant on every link that do not count; stock PowerSGD compresses from its third step on."""
_CHUNK_BYTES = 25 * 2**20


@dataclass(frozen=True)
class Request:
    """What the two ranks are to do."""

    folder: str
    port: int
    parent: int
    spec: dict[str, Any]
    long: dict[str, Any]
    """Changes of the spec for a model that computes longer than it communicates."""
    rates: tuple[str, ...]
    """As tc writes them; empty for a link that is not shaped."""
    variants: tuple[str, ...]
    has_auto: bool
    steps: int
    """Of every variant on every link."""
    overlap_rate: str | None
    """Of the link on which the longer model is measured; None for not at all."""


def main() -> None:
    request, rank = Request(**json.loads(Path(sys.argv[1]).read_text())), int(sys.argv[2])
    die_with_parent(request.parent)
    os.environ["GLOO_SOCKET_IFNAME"] = DEVICE
    torch.set_num_threads(1)
    folder = Path(request.folder) / f"rank-{rank}"
    folder.mkdir()
    context = RankContext(
        rank=rank,
        local_rank=0,
        world_size=2,
        local_world_size=1,
        node_rank=rank,
        nnodes=2,
        master_addr=ADDRESSES[0],
        master_port=request.port,
        job_name="link",
        job_uid="link",
        attempt=1,
        round=0,
        device="cpu",
        threads=1,
        run_dir=folder,
        start_timeout_seconds=60.0,
    )
    with open_processes(context, topology(Spec.model_validate(request.spec, by_alias=True))) as processes:
        shape("")
        found = measure(request, Builder(request.spec, context, processes, Path(request.folder)))
    if context.is_lead:
        (Path(request.folder) / RESULTS).write_text(json.dumps(found))


def measure(request: Request, builder: Builder) -> dict[str, Any]:
    """By link: seconds, bytes and traffic of every step of every variant."""
    processes = builder.processes
    variants = {name: builder.variant(name) for name in request.variants}
    parameters = gradient_bytes(builder)
    links: dict[str, Any] = {}
    for rate in request.rates:
        _shape(rate, processes)
        say(processes, f"link {rate or 'not shaped'}")
        found: dict[str, Any] = {"wire seconds": wire_seconds(parameters, processes), "auto": None}
        shared = dict(variants)
        if request.has_auto:
            auto = Auto.decided(builder)
            shared[AUTO], found["auto"] = auto.variant, auto.summary()
        found["steps"] = interleave(shared, request.steps, processes)
        links[rate] = found
        shared.clear()
        gc.collect()
    overlap = None
    if request.overlap_rate is not None:
        variants.clear()
        _shape(request.overlap_rate, processes)
        say(processes, f"a longer step, link {request.overlap_rate or 'not shaped'}")
        long = Builder(merged(request.spec, request.long), builder.context, processes, builder.folder / "long")
        trainings = {name: make(long) for name, make in OVERLAPPED.items()}
        wire = wire_seconds(parameters, processes)
        overlap = {"wire seconds": wire, "steps": interleave(trainings, max(2, request.steps // 2), processes)}
    return {"gradient bytes": parameters, "links": links, "overlap": overlap}


def interleave(variants: Mapping[str, Variant], steps: int, processes: Processes) -> dict[str, list[dict[str, Any]]]:
    """One step of each variant in turn, the order reversed in every second turn."""
    order, found = list(variants), {name: list[dict[str, Any]]() for name in variants}
    for turn in range(WARM_UP + steps):
        for name in order if turn % 2 else reversed(order):
            one = timed(variants[name], processes)
            if turn >= WARM_UP:
                found[name].append(one)
    for name, its in found.items():
        say(processes, f"  {name}: {median(it['seconds'] for it in its):.3f} s")
    return found


def timed(variant: Variant, processes: Processes) -> dict[str, Any]:
    """Seconds of a step of the slower rank, bytes that this rank's end of the cable sent, traffic of our reducer.

    Busy and exposed seconds are those of the rank with fewer: the other one waited for it as well, not for the link.
    """
    processes.barrier()
    sent, begin = sent_bytes(), time.perf_counter()
    variant.step()
    processes.barrier()
    seconds = time.perf_counter() - begin
    found: dict[str, Any] = {"seconds": seconds, "interface bytes": sent_bytes() - sent, "traffic": None}
    traffic = variant.traffic()
    if traffic is not None:
        least = torch.tensor([traffic.busy_seconds, traffic.exposed_seconds], dtype=torch.float64)
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        busy, exposed = least.tolist()
        hidden = max(0.0, busy - exposed)
        found["traffic"] = {
            "sent bytes": traffic.sent_bytes,
            "busy seconds": busy,
            "exposed seconds": exposed,
            "hidden seconds": hidden,
        }
    return found


def wire_seconds(nbytes: int, processes: Processes) -> float:
    """To sum that many bytes of fp32 over both ranks, with nothing beside it: median of three."""
    parts = [torch.ones(size // 4) for size in _sizes(nbytes)]
    times = []
    for _ in range(3):
        processes.barrier()
        begin = time.perf_counter()
        for part in parts:
            dist.all_reduce(part)
        times.append(time.perf_counter() - begin)
    return median(times)


def _sizes(nbytes: int) -> Sequence[int]:
    whole, rest = divmod(nbytes, _CHUNK_BYTES)
    return [_CHUNK_BYTES] * whole + [rest] * bool(rest)


def gradient_bytes(builder: Builder) -> int:
    """Of the whole model in fp32."""
    return 4 * Task(builder.job(), builder.processes).build().size


def say(processes: Processes, line: str) -> None:
    if processes.is_lead:
        print(line, flush=True)


def _shape(rate: str, processes: Processes) -> None:
    processes.barrier()
    shape(rate)
    processes.barrier()


if __name__ == "__main__":
    main()
