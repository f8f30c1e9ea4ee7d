"""Step time of every engine against the bare library loop it wraps, and predicted against measured peak memory.

`make bench-trainer` prints both tables; `--write` puts them into docs/benchmarks/trainer.{md,json,png}. Nothing is
asserted: the machine is shared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adts_api.estimate_memory import peak
from adts_api.v1alpha1 import Spec
from adts_trainer.launch.ranks import FORKS, warm_up
from adts_trainer.selfcheck.cells import manifest, merged
from perf.bench_report import Quartiles, machine, paired_ratios, table, write
from perf.step_time import BLOCK, ROUNDS, TIMES, run_rank
from support.live_bytes import watch_steps
from support.ranks import Place, free_port, run_job

LONGEST_SECONDS = 900.0
BASE: dict[str, Any] = {
    "model": {"type": "gpt", "shape": "llama", "layers": 4, "hiddenSize": 256, "heads": 4, "vocabularySize": 256},
    "data": {"type": "synthetic", "sequenceLength": 128},
    "training": {
        "steps": 10**6,
        "globalBatchSize": 8,
        "device": "cpu",
        "logEverySteps": 10,
        "tensorboard": False,
    },
}
"""3.2M parameters, 2 x 512 tokens a step."""


@dataclass(frozen=True)
class Pair:
    """An engine and what it wraps."""

    bare: str
    """Of `bare_loops.LOOPS`."""
    library: str
    spec: dict[str, Any]


def _pipeline(degree: int, schedule: str = "1F1B") -> dict[str, Any]:
    return {"pipeline": degree, "schedule": schedule, "microbatches": 4}


PAIRS: dict[str, Pair] = {
    "ddp": Pair("ddp", "torch DistributedDataParallel", {}),
    "native stage 2": Pair("fsdp", "torch fully_shard, no reshard", {"zero": {"stage": 2, "engine": "native"}}),
    "native stage 3": Pair("fsdp", "torch fully_shard", {"zero": {"stage": 3, "engine": "native"}}),
    "native, pipeline 2": Pair(
        "pipelining",
        "torch.distributed.pipelining 1F1B",
        {"parallelism": _pipeline(2), "model": {"tieEmbeddings": False}},
    ),
    "deepspeed stage 1": Pair("deepspeed", "deepspeed stage 1", {"zero": {"stage": 1, "engine": "deepspeed"}}),
    "deepspeed stage 3": Pair("deepspeed", "deepspeed stage 3", {"zero": {"stage": 3, "engine": "deepspeed"}}),
}
"""All on two processes."""

SMALL_BUCKETS = {"communication": {"bucketMegabytes": 1.0}}
"""DeepSpeed's are whole from the first gradient on: the default's 25 MiB would hide all else."""
MEMORY: dict[str, tuple[int, dict[str, Any]]] = {
    "one process, 4 micro-batches, bf16": (1, {"parallelism": {"microbatches": 4}, "precision": {"dtype": "bf16"}}),
    "ddp on 2": (2, {}),
    "ddp on 2, recomputed": (2, {"training": {"activationCheckpointing": "full"}}),
    "ddp, tensor 2": (2, {"parallelism": {"tensor": 2}}),
    "stage 2 on 2, 4 micro-batches": (2, {"zero": {"stage": 2}, "parallelism": {"microbatches": 4}}),
    "stage 3 on 4, bf16": (4, {"zero": {"stage": 3}, "precision": {"dtype": "bf16"}}),
    "pipeline 2, 1F1B": (2, {"parallelism": _pipeline(2)}),
    "pipeline 2, ZBVZeroBubble": (2, {"parallelism": _pipeline(2, "ZBVZeroBubble")}),
    "stage 2 on 2, pipeline 2": (4, {"zero": {"stage": 2}, "parallelism": _pipeline(2)}),
    "deepspeed stage 1 on 2": (2, {"zero": {"stage": 1, "engine": "deepspeed"}, **SMALL_BUCKETS}),
}
"""Processes and changes of BASE; stages without an engine are native."""


def measure_pair(pair: Pair, folder: Path, rounds: int, block: int) -> dict[str, list[float]]:
    """Seconds per step of every block, `bare` and `ours`, on two processes."""
    warm_up(("adts_trainer.rank", "perf.step_time"))
    folder.mkdir()
    config = folder / "training.yaml"
    own: dict[str, Any] = {"workers": {"processesPerWorker": 2}, "checkpoint": {"path": str(folder / "checkpoints")}}
    config.write_text(yaml.safe_dump(manifest(merged(BASE, own, pair.spec))))
    place = Place(folder, free_port())
    ranks = [
        FORKS.Process(target=run_rank, args=(place.context(it, 2), str(config), pair.bare, rounds, block))
        for it in range(2)
    ]
    try:
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(LONGEST_SECONDS)
            if rank.exitcode != 0:
                raise SystemExit(f"{pair.library}: a rank ended with {rank.exitcode}; its words are above")
    finally:
        for rank in ranks:
            rank.kill()
    seconds: dict[str, list[float]] = json.loads((folder / TIMES).read_text())
    return seconds


def time_row(name: str, seconds: dict[str, list[float]]) -> dict[str, str]:
    bare, ours = (Quartiles.of(seconds[loop]).median * 1e3 for loop in ("bare", "ours"))
    return {
        "engine": name,
        "against": PAIRS[name].library,
        "bare, ms": f"{bare:.1f}",
        "ours, ms": f"{ours:.1f}",
        "ratio (quartiles)": str(Quartiles.of(paired_ratios(seconds["ours"], seconds["bare"]))),
    }


def measure_memory(name: str, folder: Path) -> dict[str, int]:
    """Bytes of the fullest rank at its peak, predicted and measured."""
    world, changes = MEMORY[name]
    job = merged(BASE, {"training": {"steps": 3, "globalBatchSize": 16}}, changes)
    done = run_job(folder, world, job, prepare=watch_steps, timeout=LONGEST_SECONDS)
    if done.problem:
        raise SystemExit(f"{name}: {done.problem}")
    measured = max(json.loads(path.read_text())["peak"] for path in folder.rglob("live-bytes-*.json"))
    spec = Spec.model_validate({**job, "workers": {"processesPerWorker": world}}, by_alias=True)
    return {"predicted": peak(spec).total, "measured": measured}


def memory_row(name: str, found: dict[str, int]) -> dict[str, str]:
    return {
        "configuration": name,
        "predicted, MB": f"{found['predicted'] / 1e6:.1f}",
        "measured, MB": f"{found['measured'] / 1e6:.1f}",
        "ratio": f"{found['predicted'] / found['measured']:.3f}",
    }


def draw(times: dict[str, dict[str, list[float]]], memory: dict[str, dict[str, int]], out: Path) -> None:
    """Both ratios with the line at 1 that they are to come to."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), dpi=120)
    spread = [Quartiles.of(paired_ratios(it["ours"], it["bare"])) for it in times.values()]
    middle = [it.median for it in spread]
    errors = [[it.median - it.low for it in spread], [it.high - it.median for it in spread]]
    left.errorbar(middle, list(times), xerr=errors, fmt="o", capsize=3)
    left.set(title="step time, ours / bare library (quartiles)")
    right.plot([it["predicted"] / it["measured"] for it in memory.values()], list(memory), "o")
    right.set(title="peak memory, predicted / measured")
    for axes in (left, right):
        axes.axvline(1.0, color="black", linewidth=1)
        axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(out, format="png")
    plt.close(figure)


def report(times: dict[str, dict[str, list[float]]], memory: dict[str, dict[str, int]], conditions: str) -> str:
    """Both tables and what they were measured on."""
    parts = [conditions]
    if times:
        parts.append(table([time_row(name, seconds) for name, seconds in times.items()]))
    if memory:
        parts.append(table([memory_row(name, found) for name, found in memory.items()]))
    return "\n\n".join(parts)


def _names(given: Sequence[str], known: Sequence[str], option: str) -> Sequence[str]:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise SystemExit(f"{option}: {unknown[0]!r} is unknown; use some of {', '.join(map(repr, known))}")
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="*", default=list(PAIRS), help=f"of {', '.join(PAIRS)}")
    parser.add_argument("--memory", nargs="*", default=list(MEMORY), help=f"of {', '.join(MEMORY)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of blocks")
    parser.add_argument("--block", type=int, default=BLOCK, help="steps of a block")
    parser.add_argument("--write", action="store_true", help="also write docs/benchmarks/trainer.{md,json,png}")
    arguments = parser.parse_args()
    engines = _names(arguments.engines, list(PAIRS), "--engines")
    cases = _names(arguments.memory, list(MEMORY), "--memory")
    conditions = f"{machine()}; {arguments.rounds} pairs of blocks of {arguments.block} steps."
    times: dict[str, dict[str, list[float]]] = {}
    memory: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix="adts-bench-") as folder:
        for number, name in enumerate(engines):
            times[name] = measure_pair(PAIRS[name], Path(folder) / f"pair-{number}", arguments.rounds, arguments.block)
            print(json.dumps(time_row(name, times[name])), flush=True)
        for number, name in enumerate(cases):
            memory[name] = measure_memory(name, Path(folder) / f"memory-{number}")
            print(json.dumps(memory_row(name, memory[name])), flush=True)
    text = report(times, memory, conditions)
    print(f"\n{text}")
    if arguments.write:
        data = {"conditions": conditions, "seconds per step": times, "bytes": memory}
        write("trainer", "Step time and memory of the engines", text, data, lambda out: draw(times, memory, out))


if __name__ == "__main__":
    main()
