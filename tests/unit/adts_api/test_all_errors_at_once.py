"""One run of the validation names everything that is wrong, and nothing that only follows from something else."""

from __future__ import annotations

import pytest

from adts_api.contract import ExitCode
from adts_api.errors import ManifestError
from adts_api.validate import parse
from support.manifests import GPT, changed, complaints


def test_structure_and_rules_are_reported_together() -> None:
    manifest = changed(
        "training.steps=ten",
        "optimizer.lr=0.1",
        "workers.processesPerWorker=4",
        "training.globalBatchSize=6",
        "model.heads=3",
        "parallelism.context=2",
    )
    assert complaints(manifest) == [
        "spec.optimizer.lr: unknown field; remove it",
        "spec.training.steps: 'ten' is a string; write an integer",
        "spec.training.globalBatchSize: 6 is no multiple of 4 data ranks; use 4 or 8",
        "spec.model.heads: 3 does not divide hiddenSize 256; use 2 or 4",
        "spec.parallelism.context: 2 is not supported yet; remove it",
    ]


FOLLOWERS = {
    "a broken divisor breaks no batch": ["workers.processesPerWorker=x", "training.globalBatchSize=7"],
    "a broken block hides its rules": ["training=5"],
    "a misspelled field is not also missing": ["training={step: 100}"],
    "a misspelled block is not also missing": ["model=null", "modle={type: gpt}"],
    "broken data does not misfit": ["data={type: 5, path: x, tokenizer: y}"],
}


@pytest.mark.parametrize("assignments", FOLLOWERS.values(), ids=FOLLOWERS)
def test_nothing_follows_from_a_broken_field(assignments: list[str]) -> None:
    assert len(complaints(changed(*assignments))) == 1


def test_every_line_names_the_file() -> None:
    with pytest.raises(ManifestError) as caught:
        parse(changed("training.steps=-1", "model.heads=3"), source="job.yaml")
    assert str(caught.value).splitlines() == [
        "job.yaml: spec.training.steps: -1 is below 0; use at least 0",
        "job.yaml: spec.model.heads: 3 does not divide hiddenSize 256; use 2 or 4",
    ]
    assert caught.value.exit_code == ExitCode.BAD_CONFIG


def test_the_manifest_is_left_as_it_was() -> None:
    manifest = changed("training.steps=ten", "optimizer=null")
    before = repr(manifest)
    complaints(manifest)
    assert repr(manifest) == before


def test_status_of_a_newer_operator_is_no_error() -> None:
    status = {"phase": "Running", "attempt": 2, "novelty": 1, "progress": {"step": 3, "loss": None, "novelty": 2}}
    job = parse({**GPT, "status": status})
    assert (job.status.attempt, job.status.progress.step) == (2, 3)
