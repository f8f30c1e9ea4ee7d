"""Compressed training under every layout: nothing of a gradient is lost, and replicas stay equal."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from adts_api.contract import ExitCode
from support.compression_sums import (
    count_sums,
    expect_equal_replicas,
    killed_in_a_compressed_step,
    say_owed,
    with_overflow_on_rank_1,
)
from support.ranks import run_job, spec

pytestmark = pytest.mark.distributed

SMALL = {"minElements": 64}  # the models of the tests are small
EVERY: dict[str, dict[str, Any]] = {
    "bf16": {"method": "bf16"},
    "fp16": {"method": "fp16"},
    "int8": {"method": "int8"},
    "fp8": {"method": "fp8"},
    "onebit": {"method": "onebit"},
    "topk": {"method": "topk", "warmupSteps": 5, "ratio": 0.05},
    "topk in fp16": {"method": "topk", "ratio": 0.05, "cast": "fp16"},
    "randomk": {"method": "randomk", "ratio": 0.2},
    "powersgd": {"method": "powersgd", "rank": 2},
    "powersgd in fp16": {"method": "powersgd", "cast": "fp16", "warmupSteps": 3},
    "one's own": {"method": "custom", "factory": "support.user_compressors:halves"},
}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "ddp, 2 micro-batches": (2, {"parallelism": {"microbatches": 2}}),
    "ddp on 3": (3, {"training": {"globalBatchSize": 12}}),
    "ddp x tp": (4, {"parallelism": {"tensor": 2, "sequenceParallel": True}}),
    "native": (2, {"zero": {"engine": "native"}, "communication": {"bucketMegabytes": 0.01}}),
    "native x tp": (4, {"zero": {"engine": "native"}, "parallelism": {"tensor": 2}}),
    "stage 1": (4, {"zero": {"stage": 1, "shardDegree": 2}, "parallelism": {"microbatches": 2}}),
    "stage 2": (4, {"zero": {"stage": 2, "shardDegree": 2}, "parallelism": {"microbatches": 2}}),
    "stage 3": (4, {"zero": {"stage": 3, "shardDegree": 2}}),
    "stage 3 x tp": (8, {"zero": {"stage": 3, "shardDegree": 2}, "parallelism": {"tensor": 2}}),
    **{
        f"pp, {schedule}": (4, {"parallelism": {"pipeline": 2, "microbatches": 4, "schedule": schedule}, **more})
        for schedule, more in {
            "GPipe": {},
            "1F1B": {},
            "Interleaved1F1B": {"model": {"layers": 5}},
            "LoopedBFS": {"model": {"layers": 5}},
            "InterleavedZeroBubble": {"model": {"layers": 5}},
            "ZBVZeroBubble": {"model": {"layers": 5}},
            "DualPipeV": {"model": {"layers": 5}},
        }.items()
    },
    "pp x tp": (8, {"parallelism": {"pipeline": 2, "microbatches": 2, "tensor": 2}}),
    "pp x stage 2": (8, {"parallelism": {"pipeline": 2, "microbatches": 2}, "zero": {"stage": 2, "shardDegree": 2}}),
}
UNDER_ALL = ("powersgd", "int8", "onebit")
PAIRS = [("ddp, 2 micro-batches", method) for method in EVERY]
PAIRS += [(layout, method) for layout in LAYOUTS if layout != PAIRS[0][0] for method in UNDER_ALL]


def job(world: int, method: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A spec of 20 steps in fp64, compressed."""
    return spec(workers={"processesPerWorker": world}, compression={**SMALL, **method}, **changes)


@pytest.mark.parametrize(("layout", "method"), PAIRS, ids=[f"{layout}-{method}" for layout, method in PAIRS])
def test_no_part_of_a_gradient_is_lost(layout: str, method: str, tmp_path: Path) -> None:
    world, changes = LAYOUTS[layout]
    run = run_job(tmp_path, world, job(world, EVERY[method], **changes), prepare=count_sums).expect()
    gaps = [float(it) for it in re.findall(r"sums (\S+)", run.output)]
    assert len(gaps) == world
    assert max(gaps) <= 1e-12
    expect_equal_replicas(run)
    assert run.series("loss")[-1] < run.series("loss")[0]
    assert run.heartbeats[0].compression_ratio is not None
    assert run.heartbeats[0].compression_ratio > 1


@pytest.mark.parametrize("method", EVERY)
def test_an_overflow_on_one_rank_leaves_every_residual_as_it_was(method: str, tmp_path: Path) -> None:
    """All ranks skip the step, and the next ones are those of a run that never saw it."""
    changes = {"precision": {"dtype": "fp16", "initialLossScale": 1024}, "training": {"steps": 8}}
    run = run_job(tmp_path, 2, job(2, EVERY[method], **changes), prepare=with_overflow_on_rank_1).expect()
    assert "step 4: the gradient norm is nan; overflow" in run.output, run.output
    assert max(float(it) for it in re.findall(r"sums (\S+)", run.output)) <= 1e-4  # fp32
    expect_equal_replicas(run)


@pytest.mark.parametrize(
    ("layout", "method"),
    [
        ("ddp, 2 micro-batches", "topk"),
        ("ddp, 2 micro-batches", "powersgd"),
        ("stage 3", "int8"),
        ("stage 3", "randomk"),
    ],
)
def test_a_resume_with_the_residual_of_each_rank_is_bitwise(layout: str, method: str, tmp_path: Path) -> None:
    world, changes = LAYOUTS[layout]
    for name in ("whole", "halted"):
        (tmp_path / name).mkdir()
    kept = {"residual": "perRank", "everySteps": 5}
    steps = {"training": {"steps": 10}, "checkpoint": kept}
    whole = run_job(tmp_path / "whole", world, job(world, EVERY[method], **changes, **steps)).expect()
    run_job(tmp_path / "halted", world, job(world, EVERY[method], **changes, **steps)).expect()
    forget_last(tmp_path / "halted", 10, 5)
    run = run_job(tmp_path / "halted", world, job(world, EVERY[method], **changes, **steps), attempt=2).expect()
    assert run.series("loss") == whole.series("loss")


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("ddp, 2 micro-batches", "ddp on 3", "sum"),
        ("ddp, 2 micro-batches", "ddp on 3", "perRank"),
        ("stage 3", "ddp x tp", "sum"),
        ("pp, ZBVZeroBubble", "stage 1", "perRank"),
        ("ddp x tp", "pp, 1F1B", "perRank"),
    ],
)
def test_a_resume_in_another_layout_loses_nothing(before: str, after: str, kept: str, tmp_path: Path) -> None:
    """What all ranks owe after the load is what all owed before the save."""
    steps = {"training": {"steps": 5, "globalBatchSize": 24}, "model": {"layers": 5}, "checkpoint": {"residual": kept}}
    world, changes = LAYOUTS[before]
    saved = run_job(tmp_path, world, job(world, EVERY["int8"], **{**changes, **steps}), prepare=say_owed).expect()
    world, changes = LAYOUTS[after]
    steps["training"]["steps"] = 6
    loaded = run_job(
        tmp_path, world, job(world, EVERY["int8"], **{**changes, **steps}), attempt=2, prepare=say_owed
    ).expect()
    (at_save,) = set(re.findall(r"saved (\S+)", saved.output))
    (at_load,) = set(re.findall(r"loaded (\S+)", loaded.output))
    assert float(at_save) > 0
    assert float(at_load) == pytest.approx(float(at_save), rel=1e-9)


@pytest.mark.parametrize(("method", "kept"), [("int8", "sum"), ("powersgd", "perRank"), ("topk", "none")])
def test_after_a_kill_in_the_middle_of_a_step_replicas_are_equal(method: str, kept: str, tmp_path: Path) -> None:
    changes = {
        "training": {"steps": 12},
        "checkpoint": {"residual": kept, "everySteps": 5, "asynchronous": False},
        "communication": {"bucketMegabytes": 0.05},
    }
    killed = run_job(tmp_path, 2, job(2, EVERY[method], **changes), prepare=killed_in_a_compressed_step)
    assert killed.exit_codes == [ExitCode.LOST_PEER, -signal.SIGKILL]
    resumed = run_job(tmp_path, 2, job(2, EVERY[method], **changes), attempt=2, prepare=count_sums).expect()
    assert "continue from step 5" in resumed.output
    assert resumed.heartbeats[0].step == 12
    expect_equal_replicas(resumed)


def forget_last(folder: Path, last: int, before: int) -> None:
    """Undo the last checkpoint: the job goes on from the one before."""
    (newest,) = folder.rglob(f"{last}-1")
    shutil.rmtree(newest)
    (newest.parent / "latest").write_text(f"{before}-1")
