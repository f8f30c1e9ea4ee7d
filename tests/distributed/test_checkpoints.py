"""Checkpoints: which are kept, which are refused and with what advice, and what they hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adts_api.contract import ExitCode
from adts_trainer.weights import load_weights
from support.ranks import custom, run_job, spec

pytestmark = pytest.mark.distributed

EVERY_TWO = spec(training={"steps": 6}, checkpoint={"everySteps": 2, "keep": 2})


def damage_contents(directory: Path) -> None:
    file = directory / "__1_0.distcp"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(bytes(raw))


def cut_short(directory: Path) -> None:
    file = directory / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_contents, "the contents of __1_0.distcp have changed (CRC-32)"),
        (cut_short, "__0_0.distcp has "),
        (lambda directory: (directory / "__1_0.distcp").unlink(), "__1_0.distcp is missing"),
        (lambda directory: (directory / ".metadata").unlink(), ".metadata is missing"),
        (lambda directory: (directory / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda directory: (directory / "manifest.json").write_text("{"), "manifest.json is missing or no JSON"),
    ],
    ids=["a bit", "cut short", "a file", "metadata", "no manifest", "half a manifest"],
)
def test_damage_is_named_and_the_advice_works(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    folder = run_job(tmp_path, 2, EVERY_TWO).expect().folder
    damage(folder / "6-1")
    run = run_job(tmp_path, 2, EVERY_TWO, attempt=2).expect(ExitCode.BAD_CHECKPOINT)
    assert set(run.errors) == {run.errors[0]}
    assert words in run.errors[0]
    assert run.errors[0].endswith(f"delete {folder / '6-1'} to continue from step 4 in 4-1")
    shutil.rmtree(folder / "6-1")
    resumed = run_job(tmp_path, 2, EVERY_TWO, attempt=3).expect()
    assert "continue from step 4" in resumed.output


def test_damage_to_the_only_checkpoint_says_so(tmp_path: Path) -> None:
    job = spec(training={"steps": 2})
    folder = run_job(tmp_path, 2, job).expect().folder
    damage_contents(folder / "2-1")
    run = run_job(tmp_path, 2, job, attempt=2).expect(ExitCode.BAD_CHECKPOINT)
    assert "there is no older one" in run.errors[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model": {"hiddenSize": 64}},
            "token_embedding.weight has shape [61, 32] there, but [61, 64] in this model",
        ),
        ({"model": {"layers": 4}}, "has no layers.3.attention_norm.weight of shape [32]"),
        ({"model": {"layers": 2}}, "of shape [32], which this model lacks"),
        ({"model": {"tieEmbeddings": False}}, "has no head.weight of shape [61, 32]"),
        ({"optimizer": {"name": "sgd"}}, "spec.optimizer.name: sgd, but"),
        ({"checkpoint": {"resume": "never"}}, "spec.checkpoint.resume: never, but"),
    ],
    ids=["wider", "deeper", "shallower", "untied", "another optimizer", "never"],
)
@pytest.mark.parametrize("stage", [0, 3])
def test_a_checkpoint_of_another_job_is_refused(
    changes: dict[str, Any], words: str, stage: int, tmp_path: Path
) -> None:
    run_job(tmp_path, 2, spec(training={"steps": 2}, zero={"stage": stage})).expect()
    run = run_job(tmp_path, 2, spec(training={"steps": 4}, zero={"stage": stage}, **changes), attempt=2)
    run.expect(ExitCode.BAD_CHECKPOINT)
    assert words in run.errors[0]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_the_newest_checkpoints_are_kept(asynchronous: bool, tmp_path: Path) -> None:
    checkpoint = {"everySteps": 2, "keep": 2, "asynchronous": asynchronous}
    run = run_job(tmp_path, 2, spec(training={"steps": 11}, checkpoint=checkpoint)).expect()
    assert sorted(path.name for path in run.folder.iterdir() if path.is_dir()) == ["10-1", "11-1"]
    latest = json.loads((run.folder / "latest").read_text())
    assert (latest["directory"], latest["step"], latest["attempt"]) == ("11-1", 11, 1)
    assert {beat.checkpoint_path for beat in run.heartbeats} == {str(run.folder / "11-1")}


def test_without_an_interval_only_the_end_is_saved(tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, spec(training={"steps": 3})).expect()
    assert [path.name for path in run.folder.iterdir() if path.is_dir()] == ["3-1"]


def test_a_finished_run_that_is_started_again_ends_at_once(tmp_path: Path) -> None:
    job = spec(training={"steps": 3})
    run_job(tmp_path, 2, job).expect()
    again = run_job(tmp_path, 2, job, attempt=2).expect()
    assert again.series("step") == [1, 2, 3]
    assert [path.name for path in again.folder.iterdir() if path.is_dir()] == ["3-1"]


def test_the_exported_file_holds_the_final_weights(tmp_path: Path) -> None:
    job = spec(training={"steps": 3}, zero={"stage": 3}, checkpoint={"export": "safetensors"})
    run = run_job(tmp_path, 2, job).expect()
    exported = load_file(run.folder / "model.safetensors")
    weights = load_weights(run.folder / "3-1")
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], value) for name, value in weights.items())


@pytest.mark.parametrize("stage", [0, 3])
def test_buffers_of_a_users_model_are_kept(stage: int, tmp_path: Path) -> None:
    job = {"model": custom("WithStatistics"), "zero": {"stage": stage}, "optimizer": {"schedule": {"type": "constant"}}}
    run_job(tmp_path / "halves", 2, spec(training={"steps": 3}, **job)).expect()
    halves = run_job(tmp_path / "halves", 2, spec(training={"steps": 6}, **job), attempt=2).expect()
    whole = run_job(tmp_path / "whole", 2, spec(training={"steps": 6}, **job)).expect()
    assert halves.series("loss") == whole.series("loss")
    assert load_weights(whole.folder / "6-1")["seen"] == 6


@pytest.mark.parametrize("path", ["file", "file/checkpoints"])
def test_a_checkpoint_path_that_is_no_folder_is_named_by_all(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    job = spec(training={"steps": 2}, checkpoint={"path": str(tmp_path / path)})
    run = run_job(tmp_path / "run", 2, job).expect(ExitCode.STORAGE)
    assert set(run.errors) == {run.errors[0]}
    assert run.errors[0].startswith(f"{tmp_path / path}/latest: cannot read: Not a directory; spec.checkpoint.path ")
