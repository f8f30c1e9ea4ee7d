"""The closed form of memory against the live tensor bytes of real steps: the fullest rank within ten percent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adts_api.estimate_memory import peak
from adts_api.v1alpha1 import Spec
from support.live_bytes import watch_steps
from support.ranks import run_job, spec

pytestmark = pytest.mark.distributed

BOUND = 0.10

GPT: dict[str, Any] = {"type": "gpt", "layers": 4, "hiddenSize": 64, "heads": 4, "vocabularySize": 300}
LLAMA = {**GPT, "shape": "llama", "keyValueHeads": 2, "tieEmbeddings": False}
WIDE = {**GPT, "hiddenSize": 128}
LARGE_VOCABULARY = {**GPT, "layers": 2, "vocabularySize": 5000}
DROPOUT = {**GPT, "dropout": 0.1}
MLP = {"type": "mlp", "layers": 4, "hiddenSize": 128, "inputSize": 40, "outputSize": 10}

RECOMPUTED = {"activationCheckpointing": "full"}
HALF = {"dtype": "bf16"}
DEEPSPEED = {"zero": {"stage": 1, "engine": "deepspeed"}, "communication": {"bucketMegabytes": 0.1}}
"""Its buckets are whole from the first gradient on: the default's 25 MiB would hide all else."""


def pipelined(degree: int, schedule: str = "1F1B", microbatches: int = 4) -> dict[str, Any]:
    return {"pipeline": degree, "schedule": schedule, "microbatches": microbatches}


CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one process": (1, {"model": GPT}),
    "one process, 4 micro-batches, bf16": (1, {"parallelism": {"microbatches": 4}, "precision": HALF, "model": LLAMA}),
    "one process, large vocabulary, recomputed": (1, {"model": LARGE_VOCABULARY, "training": RECOMPUTED}),
    "one process, fp64, dropout": (1, {"model": DROPOUT, "precision": {"dtype": "fp64"}}),
    "one process, sgd": (1, {"model": GPT, "optimizer": {"name": "sgd"}}),
    "one process, mlp": (1, {"model": MLP, "data": {"type": "synthetic"}}),
    "ddp on 2": (2, {"model": GPT}),
    "ddp on 2, 4 micro-batches": (2, {"model": GPT, "parallelism": {"microbatches": 4}}),
    "ddp on 2, bf16, recomputed": (2, {"model": LLAMA, "precision": HALF, "training": RECOMPUTED}),
    "ddp on 2, apart": (2, {"model": GPT, "communication": {"syncEvery": 2}}),
    "stage 3, two shards by two replicas, apart": (
        4,
        {"model": GPT, "zero": {"stage": 3, "shardDegree": 2}, "communication": {"syncEvery": 2, "outerMomentum": 0}},
    ),
    "stage 2 on 2": (2, {"model": GPT, "zero": {"stage": 2}}),
    "stage 2 on 2, 4 micro-batches, bf16": (
        2,
        {"model": GPT, "zero": {"stage": 2}, "parallelism": {"microbatches": 4}, "precision": HALF},
    ),
    "stage 3 on 2": (2, {"model": LLAMA, "zero": {"stage": 3}}),
    "stage 3 on 4, recomputed": (4, {"model": WIDE, "zero": {"stage": 3}, "training": RECOMPUTED}),
    "stage 3 on 4, 4 micro-batches, bf16": (
        4,
        {"model": GPT, "zero": {"stage": 3}, "parallelism": {"microbatches": 4}, "precision": HALF},
    ),
    "native stage 0 on 2": (2, {"model": GPT, "zero": {"engine": "native"}}),
    "stage 1 on 2, 4 micro-batches": (2, {"model": GPT, "zero": {"stage": 1}, "parallelism": {"microbatches": 4}}),
    "stage 3, two shards by two replicas": (4, {"model": GPT, "zero": {"stage": 3, "shardDegree": 2}}),
    "ddp, tensor 2": (2, {"model": GPT, "parallelism": {"tensor": 2}}),
    "ddp, tensor 2, bf16": (2, {"model": GPT, "parallelism": {"tensor": 2}, "precision": HALF}),
    "ddp, tensor 2, sequence": (2, {"model": GPT, "parallelism": {"tensor": 2, "sequenceParallel": True}}),
    "stage 3 on 2, tensor 2": (4, {"model": GPT, "zero": {"stage": 3}, "parallelism": {"tensor": 2}}),
    "pipeline 2, 1F1B": (2, {"model": GPT, "parallelism": pipelined(2)}),
    "pipeline 2, GPipe": (2, {"model": GPT, "parallelism": pipelined(2, "GPipe")}),
    "pipeline 2, 1F1B, recomputed": (2, {"model": GPT, "parallelism": pipelined(2), "training": RECOMPUTED}),
    "pipeline 2, 1F1B, bf16": (2, {"model": GPT, "parallelism": pipelined(2), "precision": HALF}),
    "pipeline 2, Interleaved1F1B": (2, {"model": GPT, "parallelism": pipelined(2, "Interleaved1F1B")}),
    "pipeline 2, InterleavedZeroBubble": (2, {"model": GPT, "parallelism": pipelined(2, "InterleavedZeroBubble")}),
    "pipeline 2, ZBVZeroBubble": (2, {"model": GPT, "parallelism": pipelined(2, "ZBVZeroBubble")}),
    "pipeline 2, DualPipeV": (2, {"model": GPT, "parallelism": pipelined(2, "DualPipeV")}),
    "pipeline 4, 1F1B": (4, {"model": GPT, "parallelism": pipelined(4, microbatches=8)}),
    "stage 2 on 2, pipeline 2": (4, {"model": GPT, "zero": {"stage": 2}, "parallelism": pipelined(2)}),
    "deepspeed stage 1 on 2": (2, {"model": GPT, **DEEPSPEED}),
    "deepspeed stage 1, pipeline 2, large vocabulary, bf16": (
        2,
        {"model": LARGE_VOCABULARY, "parallelism": pipelined(2), "precision": HALF, **DEEPSPEED},
    ),
}


@pytest.mark.parametrize(("world", "changes"), CASES.values(), ids=CASES.keys())
def test_predicted_bytes_are_those_of_the_live_tensors(world: int, changes: dict[str, Any], tmp_path: Path) -> None:
    training = {"steps": 3, "globalBatchSize": 16, **changes.get("training", {})}
    job = spec(**{"precision": {"dtype": "fp32"}, **changes, "training": training})
    if changes["model"]["type"] == "mlp":
        job["data"] = changes["data"]
    run_job(tmp_path, world, job, prepare=watch_steps).expect()
    measured = max(json.loads(path.read_text())["peak"] for path in tmp_path.rglob("live-bytes-*.json"))
    predicted = peak(Spec.model_validate({**job, "workers": {"processesPerWorker": world}}, by_alias=True))
    error = predicted.total / measured - 1
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in predicted.kinds.items() if count)
    print(f"\nmeasured {measured:,}  predicted {predicted.total:,} ({error:+.1%}) at {predicted.moment}: {kinds}")
    assert abs(error) <= BOUND
