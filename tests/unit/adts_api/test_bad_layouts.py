"""Workers, degrees, engines and the batch: what does not divide, and what has no cell."""

from __future__ import annotations

import pytest

from support.manifests import changed, complaints

EIGHT = "workers={replicas: 2, processesPerWorker: 4}"
NO_TENSOR = "spec.parallelism.tensor: {} is not supported yet; remove it"
NO_PIPELINE = "spec.parallelism.pipeline: {} is not supported yet; remove it"
NO_SHARDS = "spec.zero.shardDegree: {} is not supported yet; remove it"

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
        [
            "spec.parallelism.tensor: 3 does not divide the 8 processes of a worker; use 1, 2, 4 or 8",
            NO_TENSOR.format(3),
        ],
    ),
    "pipeline does not divide the world": (
        [EIGHT, "parallelism.pipeline=3", "zero.engine=ddp"],
        ["spec.parallelism.pipeline: 3 does not divide the 8 processes; use 1, 2, 4 or 8", NO_PIPELINE.format(3)],
    ),
    "pipeline does not divide the groups": (
        [EIGHT, "parallelism.tensor=2", "parallelism.pipeline=3", "zero.engine=ddp"],
        [
            "spec.parallelism.pipeline: 3 does not divide the 4 groups of 2 processes; use 1, 2 or 4",
            NO_TENSOR.format(2),
            NO_PIPELINE.format(3),
        ],
    ),
    "shards do not divide the data ranks": (
        [EIGHT, "zero.stage=2", "zero.shardDegree=3"],
        ["spec.zero.shardDegree: 3 does not divide the 8 data ranks; use 1, 2, 4 or 8", NO_SHARDS.format(3)],
    ),
    "shards": (
        [EIGHT, "zero.shardDegree=2"],
        [NO_SHARDS.format(2)],
    ),
    "GPUs and processes differ": (
        ["workers={gpusPerWorker: 2, processesPerWorker: 4}"],
        ["spec.workers.processesPerWorker: 4 differs from gpusPerWorker 2, and a GPU has one process; remove it"],
    ),
    "cuda without GPUs": (
        ["training.device=cuda"],
        ["spec.training.device: cuda needs workers with GPUs; set spec.workers.gpusPerWorker, or use cpu"],
    ),
    "stage 1": (["zero.stage=1"], ["spec.zero.stage: 1 is not supported yet; use 2"]),
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
    "native at stage 0": (
        ["zero.engine=native"],
        ["spec.zero.engine: native with zero.stage 0 is not supported yet; use ddp"],
    ),
    "deepspeed": (
        ["zero={engine: deepspeed, stage: 2}"],
        ["spec.zero.engine: deepspeed with zero.stage 2 is not supported yet; use native"],
    ),
    "deepspeed at stage 0": (
        ["zero.engine=deepspeed"],
        ["spec.zero.engine: deepspeed with zero.stage 0 clips gradients wrongly; use ddp"],
    ),
    "offload": (
        ["zero={stage: 2, offload: {optimizer: cpu}}"],
        ["spec.zero.offload.optimizer: cpu is not supported yet; remove it"],
    ),
    "bucket of native": (
        ["zero.stage=2", "communication.bucketMegabytes=50"],
        ["spec.communication.bucketMegabytes: 50 has no effect with engine native; remove it"],
    ),
    "loss scale without fp16": (
        ["precision={dtype: bf16, initialLossScale: 1024}"],
        ["spec.precision.initialLossScale: 1024.0 has no effect with precision.dtype bf16; remove it"],
    ),
    "compression": (
        ["compression.method=powersgd"],
        ["spec.compression.method: powersgd is not supported yet; remove it"],
    ),
    "context parallelism, by name": (
        ["parallelism.context=2"],
        ["spec.parallelism.context: 2 is not supported yet; remove it"],
    ),
    "expert parallelism, by name": (
        ["parallelism.expert=2"],
        ["spec.parallelism.expert: 2 is not supported yet; remove it"],
    ),
    "automatic layout": (
        ["parallelism.mode=auto"],
        ["spec.parallelism.mode: auto is not supported yet; remove it"],
    ),
    "no overlap": (
        ["communication.overlap=false"],
        ["spec.communication.overlap: false is not supported yet; remove it"],
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
