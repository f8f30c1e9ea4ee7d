"""What DeepSpeed cannot do is refused with the nearest that can."""

from __future__ import annotations

import pytest

from adts_api.validate import parse
from support.manifests import changed, complaints

EIGHT = "workers={replicas: 2, processesPerWorker: 4}"
BATCH = "training.globalBatchSize=32"
STAGE_1 = "zero={engine: deepspeed, stage: 1}"
STAGE_2 = "zero={engine: deepspeed, stage: 2}"
PIPELINE = "parallelism={pipeline: 2, microbatches: 2}"

CASES: dict[str, tuple[list[str], str]] = {
    "stage 0": (
        ["zero.engine=deepspeed"],
        "spec.zero.engine: deepspeed with zero.stage 0 clips gradients wrongly; use ddp",
    ),
    "fp64": (
        [STAGE_2, "precision.dtype=fp64"],
        "spec.precision.dtype: fp64 does not run with engine deepspeed at zero.stage 2; use fp32, bf16 or fp16",
    ),
    "fp64, chosen by offload": (
        ["zero={stage: 2, offload: {optimizer: cpu}}", "precision.dtype=fp64"],
        "spec.precision.dtype: fp64 does not run with engine deepspeed at zero.stage 2; use fp32, bf16 or fp16",
    ),
    "nvme": (
        ["zero={stage: 3, offload: {optimizer: nvme}}"],
        "spec.zero.offload.optimizer: nvme needs DeepSpeed's async_io, which is compiled against libaio and is not "
        "part of the image; use cpu",
    ),
    "offload by native": (
        ["zero={engine: native, stage: 2, offload: {optimizer: cpu}}"],
        "spec.zero.offload.optimizer: cpu is something native cannot do; use none, or spec.zero.engine deepspeed",
    ),
    "offload at stage 0": (
        ["zero={offload: {optimizer: cpu}}"],
        "spec.zero.stage: 0 keeps no share of the state that could be offloaded; use 1, 2 or 3",
    ),
    "parameters at stage 2": (
        ["zero={stage: 2, offload: {parameters: cpu}}"],
        "spec.zero.offload.parameters: cpu needs parameters that are sharded, and zero.stage 2 keeps them whole; use "
        "none, or spec.zero.stage 3",
    ),
    "pipeline at stage 2": (
        [EIGHT, BATCH, STAGE_2, PIPELINE],
        "spec.zero.stage: 2 shards gradients in each micro-batch, and deepspeed's pipeline reduces after the last; use "
        "1, or spec.zero.engine native",
    ),
    "pipeline at stage 2, offloaded": (
        [EIGHT, BATCH, "zero={stage: 2, offload: {optimizer: cpu}}", PIPELINE],
        "spec.zero.stage: 2 shards gradients in each micro-batch, and deepspeed's pipeline reduces after the last; use "
        "1, or spec.parallelism.pipeline 1",
    ),
    "another schedule": (
        [EIGHT, BATCH, STAGE_1, "model.layers=4", "parallelism={pipeline: 2, microbatches: 2, schedule: GPipe}"],
        "spec.parallelism.schedule: GPipe is something deepspeed cannot do: its pipeline has a 1F1B of its own; use "
        "1F1B, or spec.zero.engine native",
    ),
    "replicas of shards": (
        [EIGHT, BATCH, "zero={engine: deepspeed, stage: 2, shardDegree: 4}"],
        "spec.zero.shardDegree: 4 is less than the 8 data ranks, over all of which deepspeed shards; remove it, or use "
        "spec.zero.engine native",
    ),
    "compile at stage 3": (
        ["zero={engine: deepspeed, stage: 3}", "training.compile=true"],
        "spec.training.compile: true with deepspeed at zero.stage 3 compiles its hooks over and over, and gains "
        "nothing; use false, or zero.stage 2",
    ),
}


@pytest.mark.parametrize(("assignments", "line"), CASES.values(), ids=CASES)
def test_it_is_refused_with_the_nearest_that_works(assignments: list[str], line: str) -> None:
    assert complaints(changed(*assignments)) == [line]


VALID = {
    "every stage": [STAGE_1],
    "tensor parallel": [EIGHT, BATCH, STAGE_2, "parallelism.tensor=2"],
    "offload alone chooses the engine": ["zero={stage: 2, offload: {optimizer: cpu}}", "precision.dtype=bf16"],
    "all offloaded": ["zero={stage: 3, offload: {optimizer: cpu, parameters: cpu}}", "precision.dtype=fp16"],
    "bf16 in micro-batches at stage 1": [STAGE_1, "precision.dtype=bf16", "parallelism.microbatches=2"],
    "pipeline": [EIGHT, BATCH, STAGE_1, PIPELINE, "precision.dtype=bf16"],
    "pipeline and tensor parallel": [EIGHT, BATCH, STAGE_1, "parallelism={tensor: 2, pipeline: 2, microbatches: 2}"],
    "pipeline, offloaded": [EIGHT, BATCH, "zero={stage: 1, offload: {optimizer: cpu}}", PIPELINE],
    "its buckets": [STAGE_2, "communication.bucketMegabytes=50"],
    "all data ranks by number": [EIGHT, BATCH, "zero={engine: deepspeed, stage: 2, shardDegree: 8}"],
}


@pytest.mark.parametrize("assignments", VALID.values(), ids=VALID)
def test_what_has_a_cell_is_accepted(assignments: list[str]) -> None:
    assert complaints(changed(*assignments)) == []


@pytest.mark.parametrize("zero", ["zero.engine=deepspeed", "zero.offload.optimizer=cpu"])
def test_auto_chooses_a_stage_that_deepspeed_can(zero: str) -> None:
    manifest = changed(EIGHT, BATCH, zero, "model.vocabularySize=256", "parallelism={mode: auto, pipeline: 2}")
    assert parse(manifest).spec.zero.stage == 1
