"""Compression: where there is nothing of ours to compress, and which fields mean nothing beside a method."""

from __future__ import annotations

from typing import Any

import pytest

from adts_api.topology import topology
from adts_api.validate import parse
from support.manifests import changed, complaints

TWO = "workers.processesPerWorker=2"
TWO_BY_FOUR = "workers={replicas: 2, processesPerWorker: 4}"
GPT = "model={type: gpt, layers: 4, heads: 4, hiddenSize: 64, vocabularySize: 256}"

CASES: dict[str, tuple[list[str], list[str]]] = {
    "deepspeed": (
        [TWO, "compression.method=int8", "zero={stage: 1, engine: deepspeed}"],
        [
            "spec.compression.method: int8 with engine deepspeed, which sums gradients by itself; use none, or "
            "spec.zero.engine native"
        ],
    ),
    "one data rank": (
        [GPT, TWO, "parallelism.tensor=2", "compression.method=powersgd"],
        ["spec.compression.method: powersgd has nothing to compress with one data rank; use none, or more workers"],
    ),
    "one copy of the state": (
        [TWO, "compression.method=powersgd", "zero.stage=2"],
        [
            "spec.compression.method: powersgd has nothing to compress: zero.stage 2 shards over all 2 data ranks; use "
            "none, or a spec.zero.shardDegree below 2"
        ],
    ),
    "no factory": (
        [TWO, "compression.method=custom"],
        ["spec.compression.factory: is empty with method custom; set package.module:callable"],
    ),
    "a factory that nobody calls": (
        [TWO, "compression={method: int8, factory: 'mine:build'}"],
        ["spec.compression.factory: 'mine:build' has no effect with compression.method int8; remove it"],
    ),
    "a rank without factors": (
        [TWO, "compression={method: int8, rank: 2}"],
        ["spec.compression.rank: 2 has no effect with compression.method int8; remove it"],
    ),
    "a ratio without selection": (
        [TWO, "compression={method: powersgd, ratio: 0.1}"],
        ["spec.compression.ratio: 0.1 has no effect with compression.method powersgd; remove it"],
    ),
    "a cast of what is cast": (
        [TWO, "compression={method: fp16, cast: bf16}"],
        ["spec.compression.cast: 'bf16' has no effect with compression.method fp16; remove it"],
    ),
    "feedback of no errors": (
        [TWO, "compression.errorFeedback=false"],
        ["spec.compression.errorFeedback: false has no effect with compression.method none; remove it"],
    ),
    "changes of method that lose what is left out": (
        [TWO, "compression={method: auto, errorFeedback: false}"],
        [
            "spec.compression.errorFeedback: false with method auto, which changes between methods and carries over "
            "what they leave out; use true, or name a method"
        ],
    ),
    "residuals of nothing": (
        [TWO, "checkpoint.residual=perRank"],
        ["spec.checkpoint.residual: 'perRank' has no effect with compression.method none; remove it"],
    ),
    "1-bit Adam of gradients that are not compressed": (
        [TWO, "optimizer={name: onebit-adam, clipNorm: 0}"],
        [
            "spec.compression.method: none with optimizer.name onebit-adam, whose momenta travel in one bit an entry; "
            "use onebit, or spec.optimizer.name adamw",
            "spec.compression.warmupSteps: 0 leaves onebit-adam no steps of AdamW, or nothing else; use about 20",
        ],
    ),
    "1-bit Adam of nothing but a warm-up": (
        [TWO, "optimizer={name: onebit-adam, clipNorm: 0}", "compression={method: onebit, warmupSteps: 100}"],
        ["spec.compression.warmupSteps: 100 leaves onebit-adam no steps of AdamW, or nothing else; use about 20"],
    ),
    "a clipped momentum": (
        [TWO, "optimizer={name: onebit-adam}", "compression={method: onebit, warmupSteps: 20}"],
        ["spec.optimizer.clipNorm: 1 would clip the momentum of onebit-adam; use 0"],
    ),
    "a wire between shards that ddp has not": (
        [TWO, "precision.reduceDtype=bf16"],
        [
            "spec.precision.reduceDtype: bf16 has no effect with ddp, which has no shards; use auto, or "
            "spec.compression.method bf16"
        ],
    ),
    "a rounded proof": (
        [TWO, "precision={dtype: fp64, reduceDtype: bf16}", "zero.stage=2"],
        ["spec.precision.reduceDtype: bf16 would round what spec.precision.dtype fp64 is to prove; use auto"],
    ),
    "one shard": (
        ["precision.reduceDtype=fp16", "zero={stage: 2, engine: native}"],
        ["spec.precision.reduceDtype: fp16 has no effect where one data rank has all of the state; use auto"],
    ),
    "no overlap of what torch sends": (
        [TWO, "communication.overlap=false"],
        ["spec.communication.overlap: false has no effect where torch or DeepSpeed sums the gradients; remove it"],
    ),
}


@pytest.mark.parametrize(("assignments", "lines"), CASES.values(), ids=CASES)
def test_it_is_refused_with_the_fix(assignments: list[str], lines: list[str]) -> None:
    assert complaints(changed(*assignments)) == lines


VALID = {
    "every field of it": [
        TWO,
        "compression={method: powersgd, rank: 2, warmupSteps: 5, minElements: 10, cast: fp16, errorFeedback: false}",
        "communication={overlap: false, bucketMegabytes: 1}",
        "checkpoint.residual=none",
    ],
    "between workers": [TWO_BY_FOUR, "compression.method=int8", "zero.stage=3"],
    "under tensor and pipeline": [
        TWO_BY_FOUR,
        GPT,
        "compression={method: topk, ratio: 0.1}",
        "parallelism={tensor: 2, pipeline: 2, microbatches: 2}",
    ],
}


@pytest.mark.parametrize("assignments", VALID.values(), ids=VALID)
def test_it_is_accepted(assignments: list[str]) -> None:
    assert complaints(changed("training.globalBatchSize=16", *assignments)) == []


@pytest.mark.parametrize(
    ("assignments", "replicas", "shards"),
    [
        (["zero.stage=3"], 1, 8),
        (["zero.stage=3", "compression.method=int8"], 2, 4),
        (["zero={stage: 3, shardDegree: 2}", "compression.method=int8"], 4, 2),
        (["zero.stage=2", "compression.method=int8", GPT, "parallelism.tensor=2"], 2, 2),
        (["compression.method=int8"], 8, 1),
    ],
    ids=["without", "with", "as asked", "tensor", "stage 0"],
)
def test_with_compression_the_data_ranks_of_one_worker_share_a_copy(
    assignments: list[str], replicas: int, shards: int
) -> None:
    job: dict[str, Any] = changed(TWO_BY_FOUR, "training.globalBatchSize=8", *assignments)
    mesh = topology(parse(job).spec)
    assert (mesh.dp_replicate, mesh.dp_shard) == (replicas, shards)
