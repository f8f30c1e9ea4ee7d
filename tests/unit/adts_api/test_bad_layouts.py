"""Workers, degrees, engines and the batch: what does not divide, and what has no cell."""

from __future__ import annotations

import pytest

from support.manifests import changed, complaints

EIGHT = "workers={replicas: 2, processesPerWorker: 4}"
GPT = "model={type: gpt, layers: 4, heads: 4, hiddenSize: 64, vocabularySize: 256}"

CASES: dict[str, tuple[list[str], list[str]]] = {
    "batch of odd size": (
        [EIGHT, "training.globalBatchSize=10"],
        ["spec.training.globalBatchSize: 10 is no multiple of 8 data ranks; use 8 or 16"],
    ),
    "batch smaller than the ranks": (
        [EIGHT, "training.globalBatchSize=4"],
        ["spec.training.globalBatchSize: 4 is no multiple of 8 data ranks; use 8"],
    ),
    "batch and microbatches": (
        [EIGHT, "training.globalBatchSize=24", "parallelism.microbatches=2"],
        ["spec.training.globalBatchSize: 24 is no multiple of 8 data ranks x 2 microbatches = 16; use 16 or 32"],
    ),
    "tensor does not divide the worker": (
        ["workers.processesPerWorker=8", "parallelism.tensor=3"],
        ["spec.parallelism.tensor: 3 does not divide the 8 processes of a worker; use 1, 2, 4 or 8"],
    ),
    "tensor does not divide the heads": (
        ["workers.processesPerWorker=8", GPT, "model.heads=2", "parallelism.tensor=4"],
        ["spec.parallelism.tensor: 4 does not divide the 2 heads, and a head is not cut; use 1 or 2"],
    ),
    "tensor does not divide the key-value heads": (
        ["workers.processesPerWorker=8", GPT, "model.shape=llama", "model.keyValueHeads=2", "parallelism.tensor=4"],
        ["spec.parallelism.tensor: 4 does not divide the 2 keyValueHeads, and a head is not cut; use 1 or 2"],
    ),
    "sequence parallelism alone": (
        [GPT, "parallelism.sequenceParallel=true"],
        [
            "spec.parallelism.sequenceParallel: true has no effect with tensor 1; set spec.parallelism.tensor, or "
            "remove it"
        ],
    ),
    "a schedule without a pipeline": (
        [GPT, "parallelism.schedule=GPipe"],
        ["spec.parallelism.schedule: GPipe has no effect with pipeline 1; set spec.parallelism.pipeline, or remove it"],
    ),
    "pipeline does not divide the world": (
        [EIGHT, GPT, "parallelism.pipeline=3", "parallelism.microbatches=4"],
        ["spec.parallelism.pipeline: 3 does not divide the 8 processes; use 1, 2, 4 or 8"],
    ),
    "pipeline does not divide the groups": (
        [EIGHT, GPT, "parallelism={tensor: 2, pipeline: 3, microbatches: 4}"],
        ["spec.parallelism.pipeline: 3 does not divide the 4 groups of 2 processes; use 1, 2 or 4"],
    ),
    "pipeline under ddp": (
        [EIGHT, GPT, "parallelism={pipeline: 2, microbatches: 2}", "zero.engine=ddp", "training.globalBatchSize=8"],
        ["spec.zero.engine: ddp with pipeline 2 trains wrongly under every schedule but one; use native"],
    ),
    "more stages than layers": (
        [
            EIGHT,
            GPT,
            "parallelism={pipeline: 4, microbatches: 4, schedule: Interleaved1F1B}",
            "training.globalBatchSize=8",
        ],
        [
            "spec.parallelism.pipeline: 4 with Interleaved1F1B has 8 stages, more than the 4 layers; use fewer stages, "
            "or more layers"
        ],
    ),
    "too few micro-batches": (
        [EIGHT, GPT, "parallelism={pipeline: 4, microbatches: 2}", "training.globalBatchSize=8"],
        ["spec.parallelism.microbatches: 2 is less than the 4 stages of 1F1B with pipeline 4; use at least 4"],
    ),
    "rounds that are not equal": (
        [
            EIGHT,
            GPT,
            "parallelism={pipeline: 2, microbatches: 5, schedule: Interleaved1F1B}",
            "training.globalBatchSize=20",
        ],
        ["spec.parallelism.microbatches: 5 does not make equal rounds of Interleaved1F1B with pipeline 2; use 4 or 6"],
    ),
    "split backward at stage 3": (
        [
            EIGHT,
            GPT,
            "parallelism={pipeline: 2, microbatches: 2, schedule: ZBVZeroBubble}",
            "zero.stage=3",
            "training.globalBatchSize=8",
        ],
        [
            "spec.parallelism.schedule: ZBVZeroBubble with zero.stage 3 trains wrongly: gradients of weights are "
            "computed after they are gone; use 1F1B or Interleaved1F1B, or zero.stage 2"
        ],
    ),
    "shards do not divide the data ranks": (
        [EIGHT, "zero.stage=2", "zero.shardDegree=3"],
        ["spec.zero.shardDegree: 3 does not divide the 8 data ranks; use 1, 2, 4 or 8"],
    ),
    "shards at stage 0": (
        [EIGHT, "zero.shardDegree=2"],
        ["spec.zero.shardDegree: 2 has no effect with zero.stage 0; remove it"],
    ),
    "GPUs and processes differ": (
        ["workers={gpusPerWorker: 2, processesPerWorker: 4}"],
        ["spec.workers.processesPerWorker: 4 differs from gpusPerWorker 2, and a GPU has one process; remove it"],
    ),
    "cuda without GPUs": (
        ["training.device=cuda"],
        ["spec.training.device: cuda needs workers with GPUs; set spec.workers.gpusPerWorker, or use cpu"],
    ),
    "ddp cannot shard": (
        ["zero={engine: ddp, stage: 3}"],
        ["spec.zero.engine: ddp with zero.stage 3 replicates all state and cannot shard it; use native"],
    ),
    "ddp at stage 1": (
        ["zero={engine: ddp, stage: 1}"],
        [
            "spec.zero.engine: ddp with zero.stage 1 replicates all state and cannot shard it; "
            "use native with zero.stage 2"
        ],
    ),
    "deepspeed at stage 0": (
        ["zero.engine=deepspeed"],
        ["spec.zero.engine: deepspeed with zero.stage 0 clips gradients wrongly; use ddp"],
    ),
    "bucket of native": (
        ["zero.stage=2", "communication.bucketMegabytes=50"],
        ["spec.communication.bucketMegabytes: 50 has no effect with engine native; remove it"],
    ),
    "loss scale without fp16": (
        ["precision={dtype: bf16, initialLossScale: 1024}"],
        ["spec.precision.initialLossScale: 1024.0 has no effect with precision.dtype bf16; remove it"],
    ),
    "context parallelism, by name": (
        ["parallelism.context=2"],
        ["spec.parallelism.context: 2 is not supported yet; remove it"],
    ),
    "expert parallelism, by name": (
        ["parallelism.expert=2"],
        ["spec.parallelism.expert: 2 is not supported yet; remove it"],
    ),
}


@pytest.mark.parametrize(("assignments", "lines"), CASES.values(), ids=CASES)
def test_the_layout_is_refused_with_the_nearest_that_works(assignments: list[str], lines: list[str]) -> None:
    assert complaints(changed(*assignments)) == lines


VALID = {
    "GPUs": ["workers={replicas: 2, gpusPerWorker: 4}"],
    "GPUs that only count processes": ["workers.gpusPerWorker=4", "training.device=cpu"],
    "GPUs and as many processes": ["workers={gpusPerWorker: 4, processesPerWorker: 4}"],
    "stage 3 in fp16": ["zero.stage=3", "precision={dtype: fp16, initialLossScale: 1024}"],
    "stage 2 by name": ["zero={stage: 2, engine: native}", "precision.dtype=fp64"],
    "ddp with its own buckets": ["communication.bucketMegabytes=50", "zero.engine=ddp", "precision.dtype=bf16"],
    "gradient accumulation": [EIGHT, "training.globalBatchSize=32", "parallelism.microbatches=4"],
}


@pytest.mark.parametrize("assignments", VALID.values(), ids=VALID)
def test_what_has_a_cell_is_accepted(assignments: list[str]) -> None:
    assert complaints(changed(*assignments)) == []
