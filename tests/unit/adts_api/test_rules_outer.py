"""Replicas that train apart: where there are none, and what needs all of them in every step."""

from __future__ import annotations

import pytest

from adts_api.topology import topology
from adts_api.validate import parse
from support.manifests import changed, complaints

TWO, APART = "workers.processesPerWorker=2", "communication.syncEvery=4"

CASES: dict[str, tuple[list[str], list[str]]] = {
    "deepspeed": (
        [TWO, APART, "zero={stage: 1, engine: deepspeed}"],
        [
            "spec.communication.syncEvery: 4 with engine deepspeed, which sums gradients in every step; use 1, or "
            "spec.zero.engine native"
        ],
    ),
    "one data rank": (
        [APART],
        ["spec.communication.syncEvery: 4 has no effect with one data rank; use 1, or more workers"],
    ),
    "one copy of the state": (
        [TWO, APART, "zero.stage=2"],
        [
            "spec.communication.syncEvery: 4 has no effect: zero.stage 2 shards over all 2 data ranks; use 1, or a "
            "spec.zero.shardDegree below 2"
        ],
    ),
    "checkpoints in a round": (
        [TWO, APART, "checkpoint.everySteps=10"],
        [
            "spec.checkpoint.everySteps: 10 is no multiple of communication.syncEvery 4: replicas differ in between; "
            "use 8 or 12"
        ],
    ),
    "evaluations in the first round": (
        [TWO, APART, "data={type: tokens, path: a.bin, evaluation: {path: b.bin, everySteps: 2}}"],
        [
            "spec.data.evaluation.everySteps: 2 is no multiple of communication.syncEvery 4: replicas differ in "
            "between; use 4"
        ],
    ),
    "auto": (
        [TWO, APART, "compression.method=auto"],
        [
            "spec.compression.method: auto with communication.syncEvery 4: it measures what an exchange in every step "
            "costs; name a method"
        ],
    ),
    "a divergence that is left out": (
        [TWO, APART, "training.onDivergence=skip"],
        [
            "spec.training.onDivergence: skip with communication.syncEvery 4: a replica that diverges does so alone; "
            "use stop"
        ],
    ),
    "a loss that nobody knows": (
        [TWO, APART, "training.lossSpikeFactor=3"],
        [
            "spec.training.lossSpikeFactor: 3 with communication.syncEvery 4: the loss of all replicas is not known in "
            "every step; use 0"
        ],
    ),
    "no overlap": (
        [TWO, APART, "compression.method=int8", "communication.overlap=false"],
        [
            "spec.communication.overlap: false has no effect with communication.syncEvery 4: nothing is exchanged "
            "beside a backward pass; remove it"
        ],
    ),
    "outer steps in step": (
        [TWO, "communication={outerLearningRate: 1.0, outerMomentum: 0.5}"],
        [
            "spec.communication.outerLearningRate: 1.0 has no effect with communication.syncEvery 1; remove it, or set "
            "spec.communication.syncEvery",
            "spec.communication.outerMomentum: 0.5 has no effect with communication.syncEvery 1; remove it, or set "
            "spec.communication.syncEvery",
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused(name: str) -> None:
    assignments, expected = CASES[name]
    assert complaints(changed(*assignments)) == expected


@pytest.mark.parametrize(
    "assignments",
    [
        [TWO, APART, "checkpoint.everySteps=8", "compression.method=int8"],
        [TWO, APART, "communication.outerMomentum=0", "training.steps=10"],
        ["workers={replicas: 2, processesPerWorker: 4}", APART, "zero.stage=3"],
    ],
)
def test_it_is_accepted(assignments: list[str]) -> None:
    assert complaints(changed(*assignments)) == []


def test_by_default_replicas_are_workers() -> None:
    spec = parse(changed("workers={replicas: 2, processesPerWorker: 4}", APART, "zero.stage=3")).spec
    assert (topology(spec).dp_replicate, topology(spec).dp_shard) == (2, 4)
