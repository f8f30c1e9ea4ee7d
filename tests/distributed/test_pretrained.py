"""Pretrained weights are the same in every layout, and no rank reads what it does not keep."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from adts_api.contract import ExitCode
from adts_trainer.data.synthetic import SyntheticTokens
from adts_trainer.export import export_weights
from adts_trainer.sampler import sample_ids
from adts_trainer.weights import find_checkpoint, load_model
from support.ranks import Finished, custom, run_job, spec

pytestmark = pytest.mark.distributed

FP32 = {"precision": {"dtype": "fp32"}, "optimizer": {"schedule": {"warmupSteps": 1}}}
TENSOR = {"parallelism": {"tensor": 2}}
PIPELINE = {"parallelism": {"pipeline": 2, "microbatches": 2}}
DEEPSPEED = {"engine": "deepspeed", "stage": 3}


def one_step(path: Path, **changes: Any) -> dict[str, Any]:
    """A job of one step that starts from weights in fp32, unless said otherwise."""
    return spec(**{**FP32, "training": {"steps": 1}, "checkpoint": {"initializeFrom": str(path)}, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job that trained in one process and exported both forms."""
    folder = tmp_path_factory.mktemp("trained")
    job = spec(**FP32, training={"steps": 10}, checkpoint={"export": "huggingface"})
    run = run_job(folder, 1, job).expect()
    assert f"wrote {run.folder / 'huggingface'}" in run.output
    export_weights(find_checkpoint(run.folder), "safetensors", run.folder / "model.safetensors")
    return run.folder


@pytest.fixture(scope="module")
def expected(trained: Path) -> float:
    """Loss of the exported weights on the samples of the first step, by torch alone in fp64."""
    dataset = SyntheticTokens(0, "", 16, 61)
    batch = dataset.batch(sample_ids(0, len(dataset), True, 0, 16), np.zeros(16, dtype=np.int64))
    with torch.no_grad():
        logits = load_model(find_checkpoint(trained)).double()(batch.inputs, batch.keys)
    return cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).item()


def bytes_read(run: Finished) -> int:
    """By the rank that read most."""
    (found,) = re.findall(r"a rank read at most ([\d,]+) bytes", run.output)
    return int(found.replace(",", ""))


WHOLE = 1.0
LAYOUTS: dict[str, tuple[int, dict[str, Any], float]] = {
    "one process": (1, {}, WHOLE),
    "ddp on 2": (2, {}, WHOLE),
    "tensor 2": (2, TENSOR, 0.52),
    "pipeline 2": (2, PIPELINE, 0.72),  # the first of them has two of three layers
    "stage 3 on 2": (2, {"zero": {"stage": 3}}, 0.52),
    "stage 1, tensor 2": (2, {**TENSOR, "zero": {"stage": 1}}, 0.52),
    "deepspeed 3 on 2": (2, {"zero": DEEPSPEED}, 0.52),
    "deepspeed 2, tensor 2": (2, {"zero": {**DEEPSPEED, "stage": 2}, **TENSOR}, 0.52),
}
"""Processes, changes, and the largest part of the file that a rank may read."""
OURS = ("tensor 2", "deepspeed 3 on 2")
"""Layouts that also read our own names."""


@pytest.mark.parametrize(
    ("layout", "form"),
    [*((layout, "huggingface") for layout in LAYOUTS), *((layout, "model.safetensors") for layout in OURS)],
)
def test_every_layout_starts_from_the_same_weights(
    layout: str, form: str, trained: Path, expected: float, tmp_path: Path
) -> None:
    world, changes, most = LAYOUTS[layout]
    run = run_job(tmp_path, world, one_step(trained / form, **changes)).expect()
    whole = sum(value.nbytes for value in load_file(trained / "model.safetensors").values())
    print(f"loss {run.series('loss')[0] - expected:+.1e}, read {bytes_read(run) / whole:.3f}")
    assert abs(run.series("loss")[0] - expected) <= 1e-6
    assert bytes_read(run) <= most * whole


def test_without_it_the_loss_is_another(expected: float, tmp_path: Path) -> None:
    run = run_job(tmp_path, 1, spec(**FP32, training={"steps": 1})).expect()
    assert abs(run.series("loss")[0] - expected) > 0.01


@pytest.mark.parametrize("stage", [0, 3])
def test_a_users_model_starts_with_its_buffers(stage: int, tmp_path: Path) -> None:
    job = {"model": custom("WithStatistics"), **FP32}
    first = run_job(
        tmp_path / "first", 2, spec(**job, training={"steps": 3}, checkpoint={"export": "safetensors"})
    ).expect()
    file = first.folder / "model.safetensors"
    second = run_job(tmp_path / "second", 2, one_step(file, **job, zero={"stage": stage})).expect()
    seen = [load_file(file)["seen"].item()]
    export_weights(find_checkpoint(second.folder), "safetensors", tmp_path / "again.safetensors")
    seen.append(load_file(tmp_path / "again.safetensors")["seen"].item())
    assert seen == [3, 4]


def test_a_checkpoint_wins_over_pretrained_weights(trained: Path, tmp_path: Path) -> None:
    """They need not even be there any more. With three replicas of ddp, a resume begins with a rehearsed pass."""
    file = tmp_path / "model.safetensors"
    file.write_bytes((trained / "model.safetensors").read_bytes())
    first, second = ({"steps": steps, "globalBatchSize": 12} for steps in (1, 2))
    run_job(tmp_path, 3, one_step(file, training=first)).expect()
    file.unlink()
    resumed = run_job(tmp_path, 3, one_step(file, training=second), attempt=2).expect()
    assert "continue from step 1" in resumed.output
    assert "start from" not in resumed.output
    assert resumed.series("loss")[1] < 1.01 * resumed.series("loss")[0]
    other = run_job(tmp_path / "other", 2, one_step(file)).expect(ExitCode.BAD_CHECKPOINT)
    assert set(other.errors) == {
        f"spec.checkpoint.initializeFrom: {file}: no such file or folder; "
        "name a .safetensors file, or a folder with model.safetensors"
    }


def test_what_one_rank_misses_all_ranks_tell(trained: Path, tmp_path: Path) -> None:
    """The last layer has another shape, which only the second stage sees."""
    tensors = load_file(trained / "model.safetensors")
    tensors["layers.2.feed_forward.up.bias"] = torch.zeros(3)
    save_file(tensors, tmp_path / "model.safetensors")
    job = one_step(tmp_path / "model.safetensors", **PIPELINE)
    run = run_job(tmp_path, 2, job).expect(ExitCode.BAD_CHECKPOINT)
    (error,) = set(run.errors)
    assert "layers.2.feed_forward.up.bias has shape [3] there, but [128] in this model" in error
