"""A command of the user's own: what it may have, and what is refused because only our trainer reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adts_api.cells import is_implemented
from adts_api.fields import spec_leaves
from adts_api.rules_command import MOUNTED, TRAINER_BLOCKS, TRAINER_FIELDS, needs_trainer
from support.manifests import GPT, changed, complaints

COMMAND: dict[str, Any] = {**GPT, "spec": {"command": ["torchrun", "train.py"]}}

VALID = {
    "alone": [],
    "an image": ["image=registry.example/me/train:1"],
    "three workers, which divide no default batch": ["workers.replicas=3"],
    "GPUs": ["workers={replicas: 2, gpusPerWorker: 8}"],
    "processes on the CPU": ["workers.processesPerWorker=4"],
    "claims": ["data.claim=tokens", "checkpoint.claim=weights"],
    "a template": ["workers.template={spec: {nodeSelector: {a: b}}}"],
    "a life": ["runPolicy={backoffLimit: 0, ttlSecondsAfterFinished: 0, permanentExitCodes: [3]}"],
    "a gang": ["scheduling={gang: native, queue: team, priorityClassName: high, topologyKey: rack}"],
}


@pytest.mark.parametrize("assignments", VALID.values(), ids=VALID)
def test_what_a_command_may_have(assignments: list[str]) -> None:
    assert complaints(changed(*assignments, base=COMMAND)) == []


REFUSED = {
    "steps": (
        ["training.steps=100"],
        ["spec.training.steps: 100 has no effect with spec.command, which runs without our trainer; remove it"],
    ),
    "several blocks": (
        ["zero.stage=2", "data={type: tokens, claim: tokens}", "optimizer.schedule.warmupSteps=5"],
        [
            "spec.zero.stage: 2 has no effect with spec.command, which runs without our trainer; remove it",
            "spec.data.type: 'tokens' has no effect with spec.command, which runs without our trainer; remove it",
            "spec.optimizer.schedule.warmupSteps: 5 has no effect with spec.command, which runs without our trainer; "
            "remove it",
        ],
    ),
    "arguments of a model": (
        ["model.arguments={a: 1}"],
        ["spec.model.arguments: has no effect with spec.command, which runs without our trainer; remove it"],
    ),
    "processes that differ from the GPUs": (
        ["workers={gpusPerWorker: 8, processesPerWorker: 4}"],
        ["spec.workers.processesPerWorker: 4 differs from gpusPerWorker 8, and a GPU has one process; remove it"],
    ),
    "a model beside it": (
        ["model.type=mlp", "training.steps=5"],
        ["spec.command: excludes spec.model.type mlp; remove one of them"],
    ),
}


@pytest.mark.parametrize(("assignments", "lines"), REFUSED.values(), ids=REFUSED)
def test_what_needs_our_trainer_is_refused(assignments: list[str], lines: list[str]) -> None:
    assert complaints(changed(*assignments, base=COMMAND)) == lines


def test_a_broken_command_is_one_error() -> None:
    assert complaints(changed("command=5", "workers.replicas=3", base=COMMAND)) == [
        "spec.command: 5 is an integer; write a list"
    ]


def test_the_page_on_commands_names_every_block_that_is_refused_and_the_claims() -> None:
    page = (Path(__file__).parents[3] / "docs" / "command.md").read_text(encoding="utf-8")
    refused = page.partition("## What is refused")[2]
    assert [block for block in TRAINER_BLOCKS if f"`spec.{block}`" not in refused] == []
    assert [path for path in MOUNTED if f"`spec.{path}`" not in page] == []


def test_every_field_of_the_trainers_blocks_is_refused_but_the_claims() -> None:
    leaves = {path for path in spec_leaves() if path.partition(".")[0] in TRAINER_BLOCKS}
    refused = {path for path in spec_leaves() if needs_trainer(path)}
    assert refused == (leaves - set(MOUNTED)) | set(TRAINER_FIELDS)
    assert all(is_implemented(path) for path in MOUNTED)
