"""Replicas that train apart (local SGD, DiLoCo): equal to a plain loop, under every layout, saved and resumed."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections import defaultdict
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from adts_api.contract import ExitCode
from adts_trainer.selfcheck.cells import merged
from adts_trainer.weights import load_weights
from support import apart_faults as faults
from support.apart_cases import outer_step
from support.apart_loop import Apart, train_apart
from support.compression_sums import count_sums, expect_equal_replicas
from support.ranks import Finished, run_job, spec, wait_for_step
from support.wire_pool import Pool

pytestmark = pytest.mark.distributed

SGD = {"optimizer": {"name": "sgd", "learningRate": 0.1, "momentum": 0.9}}
MEAN = {"syncEvery": 2, "outerLearningRate": 1.0, "outerMomentum": 0.0}
HYBRID = {"zero": {"stage": 3, "shardDegree": 2}}
SMALL = {"minElements": 64}  # the models of the tests are small


def job(steps: int, communication: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A spec of a few steps in fp64."""
    changes["training"] = {"steps": steps, **changes.get("training", {})}
    return spec(communication=communication, **changes)


def relative_gap(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def weight_gap(run: Finished, steps: int, truth: Apart) -> float:
    weights = load_weights(run.folder / f"{steps}-1")
    assert weights.keys() == truth.weights.keys()
    return max(float((weights[name] - value).abs().max()) for name, value in truth.weights.items())


DILOCO = {"syncEvery": 3}  # at the default rates of DiLoCo
PIPELINE: dict[str, Any] = {"parallelism": {"pipeline": 2, "microbatches": 4}, "model": {"layers": 5}}
LAYOUTS: dict[str, tuple[int, int, dict[str, Any], dict[str, Any]]] = {
    # replicas, ranks, communication, changes; 7 steps, so that the last round is a short one
    "the mean after SGD": (2, 2, MEAN, SGD),
    "DiLoCo": (2, 2, DILOCO, {"parallelism": {"microbatches": 2}}),
    "DiLoCo on 3": (3, 3, DILOCO, {"training": {"globalBatchSize": 12}}),
    "ddp x tp": (2, 4, DILOCO, {"parallelism": {"tensor": 2, "sequenceParallel": True}}),
    "native": (2, 2, DILOCO, {"zero": {"engine": "native"}}),
    "stage 1": (2, 4, DILOCO, {"zero": {"stage": 1, "shardDegree": 2}, "parallelism": {"microbatches": 2}}),
    "stage 3": (2, 4, DILOCO, HYBRID),
    "pp": (2, 4, DILOCO, PIPELINE),
    "pp in a V": (2, 4, DILOCO, {**PIPELINE, "parallelism": {**PIPELINE["parallelism"], "schedule": "ZBVZeroBubble"}}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_run_equals_a_plain_loop(name: str, tmp_path: Path) -> None:
    """Clipping is active, embeddings are tied, replicas have different numbers of targets. To judge steps together, or
    to leave out Nesterov's look ahead, is off by far more than the tolerance."""
    replicas, ranks, communication, changes = LAYOUTS[name]
    full = job(7, communication, **changes)
    run = run_job(tmp_path, ranks, full, prepare=faults.count_sums_of_uneven_targets).expect()
    truth = train_apart(full, replicas, uneven=True)
    assert relative_gap(run.series("loss"), truth.losses) <= 1e-12
    assert relative_gap(run.series("gradient_norm"), truth.norms) <= 1e-12
    assert weight_gap(run, 7, truth) <= 1e-12
    expect_equal_replicas(run)
    naive = train_apart(full, replicas, uneven=True, judged_together=True)
    assert relative_gap(naive.losses, truth.losses) > 1e-6
    if communication is DILOCO:
        heavy_ball = train_apart(full, replicas, uneven=True, nesterov=False)
        assert relative_gap(heavy_ball.losses, truth.losses) > 1e-6


@pytest.mark.parametrize(
    ("ranks", "method", "changes"),
    [
        (3, {"method": "int8"}, {"training": {"globalBatchSize": 12}}),
        (4, {"method": "powersgd", "rank": 2, "warmupSteps": 4}, {"parallelism": {"tensor": 2}}),
        (4, {"method": "onebit"}, HYBRID),
        (4, {"method": "int8"}, PIPELINE),
    ],
    ids=["int8 on 3", "powersgd x tp", "onebit x stage 3", "int8 x pp"],
)
def test_no_part_of_an_outer_gradient_is_lost(
    ranks: int, method: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    """Σ (applied + owed) = Σ of outer gradients, in units of parameters."""
    full = job(12, {"syncEvery": 2}, compression={**SMALL, **method}, **changes)
    run = run_job(tmp_path, ranks, full, prepare=count_sums).expect()
    gaps = [float(it) for it in re.findall(r"sums (\S+)", run.output)]
    assert len(gaps) == ranks
    assert max(gaps) <= 1e-12
    expect_equal_replicas(run)
    assert run.series("loss")[-1] < run.series("loss")[0]


def test_nothing_but_numbers_to_judge_by_travels_in_inner_steps(tmp_path: Path) -> None:
    """What is reported is the mean over a round, against a sum in each step."""
    full = job(6, {"syncEvery": 3}, precision={"dtype": "fp32"})
    run = run_job(tmp_path / "apart", 2, full, prepare=faults.count_all_traffic).expect()
    assert set(re.findall(r"counted (\d+)", run.output)) == {"0"}
    sent = defaultdict(set)
    for step, number in re.findall(r"step (\d+) sent (\d+)", run.output):
        sent[int(step)].add(int(number))
    entries = sum(it.numel() for it in load_weights(run.folder / "6-1").values())
    once = 4 * entries  # 2 (W - 1) / W of all bytes
    assert sent == {1: {0}, 2: {0}, 3: {once}, 4: {0}, 5: {0}, 6: {once}}
    beat = run.heartbeats[0]
    assert (beat.wire_bytes_per_step, beat.compression_ratio) == (once // 3, pytest.approx(3, rel=1e-4))

    every_step = run_job(
        tmp_path / "together",
        2,
        spec(precision={"dtype": "fp32"}, training={"steps": 2}),
        prepare=faults.count_all_traffic,
    ).expect()
    assert {int(it) for it in re.findall(r"counted (\d+)", every_step.output)} == {once}


def test_an_overflow_is_the_replicas_own(tmp_path: Path) -> None:
    """The loss of all replicas is not finite then, as all see; but only one leaves its step out, halves its scale, and
    is where the others are after the round."""
    full = job(8, {"syncEvery": 2}, precision={"dtype": "fp16", "initialLossScale": 1024})
    run = run_job(tmp_path, 2, full, prepare=faults.and_no_step_for_rank_1).expect()
    told = dict(re.findall(r"rank (\d step \d) (\w+ scale \d+)", run.output))
    assert len(told) == 16
    assert told["1 step 3"] == "OVERFLOW scale 512"
    assert told["1 step 7"] == "APPLY scale 512"
    assert {it for where, it in told.items() if where.startswith("0") or where < "1 step 3"} == {"APPLY scale 1024"}
    assert run.series("loss")[3] is None
    expect_equal_replicas(run)


def test_a_replica_that_diverges_ends_the_job(tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, job(8, {"syncEvery": 4}), prepare=faults.infinite_loss_on_rank_1)
    assert run.exit_codes == [ExitCode.LOST_PEER, ExitCode.DIVERGED]
    assert "the gradient norm is" in run.errors[1]


SAVED = {"checkpoint": {"everySteps": 4}, "training": {"globalBatchSize": 12}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two replicas to step 8, saved at 4 too."""
    return run_job(tmp_path_factory.mktemp("whole"), 2, job(8, {"syncEvery": 2}, **SAVED)).expect()


def resumed(whole: Finished, folder: Path, ranks: int, prepare: Any = None, **changes: Any) -> Finished:
    """What another run makes of the checkpoint at step 4."""
    shutil.copytree(whole.folder, folder / "checkpoints")
    forget_last(folder)
    full = merged(spec(training={"steps": 8}), SAVED, changes)
    return run_job(folder, ranks, full, attempt=2, prepare=prepare).expect()


def test_a_resume_is_bitwise(whole: Finished, tmp_path: Path) -> None:
    run = resumed(whole, tmp_path, 2, communication={"syncEvery": 2})
    assert run.series("loss") == whole.series("loss")


def test_a_resume_needs_the_outer_momentum(whole: Finished, tmp_path: Path) -> None:
    run = resumed(whole, tmp_path, 2, faults.forget_the_outer_momentum, communication={"syncEvery": 2})
    assert run.series("loss")[:6] == whole.series("loss")[:6]
    assert run.series("loss")[6] != whole.series("loss")[6]


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (3, {"compression": {**SMALL, "method": "int8"}, "training": {"globalBatchSize": 12}}),
        (4, {**HYBRID, "compression": {**SMALL, "method": "powersgd", "rank": 2}}),
        (4, PIPELINE),
    ],
    ids=["int8 on 3", "powersgd x stage 3", "pp"],
)
def test_a_resume_with_compression_or_a_pipeline_is_bitwise(
    ranks: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    kept = {"everySteps": 4, **({"residual": "perRank"} if "compression" in changes else {})}
    full = job(8, {"syncEvery": 2}, **changes, checkpoint=kept)
    losses = run_job(tmp_path, ranks, full).expect().series("loss")
    forget_last(tmp_path)
    assert run_job(tmp_path, ranks, full, attempt=2).expect().series("loss") == losses


def test_a_resume_needs_the_optimizer_of_each_replica(tmp_path: Path) -> None:
    """The trap: parameters are equal at the save, so why not save one replica?"""
    fault, full = faults.save_the_optimizer_of_any_replica, job(8, {"syncEvery": 2}, checkpoint={"everySteps": 4})
    losses = run_job(tmp_path, 2, full, prepare=fault).expect().series("loss")
    forget_last(tmp_path)
    again = run_job(tmp_path, 2, full, attempt=2, prepare=fault).expect().series("loss")
    assert again[:5] == losses[:5]
    assert again[5] != losses[5]


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (3, {"communication": {"syncEvery": 2}}),
        (2, {}),
        (4, {"communication": {"syncEvery": 4}, **HYBRID}),
    ],
    ids=["3 replicas", "in step", "sharded"],
)
def test_a_resume_in_another_layout_goes_on(
    ranks: int, changes: dict[str, Any], whole: Finished, tmp_path: Path
) -> None:
    """The first step has the same samples and starts at the same weights: its loss is the same whatever comes then."""
    run = resumed(whole, tmp_path, ranks, **changes)
    assert run.series("loss")[4] == pytest.approx(whole.series("loss")[4], rel=1e-12)
    assert run.series("loss")[5:] == pytest.approx(whole.series("loss")[5:], rel=0.02)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_one_optimizer_goes_on_from_the_mean_of_all(whole: Finished, tmp_path: Path) -> None:
    (told,) = re.findall(r"moments (\S+)", resumed(whole, tmp_path, 1, faults.say_moments).output)
    of_each = [first_moments(tmp_path / "checkpoints" / "4-1", replica) for replica in (0, 1)]
    mean = {name: (value + of_each[1][name]) / 2 for name, value in of_each[0].items()}
    assert float(told) == pytest.approx(norms(mean), rel=1e-12)
    assert min(abs(float(told) - norms(it)) for it in of_each) > 1e-3 * float(told)  # the trap: to take that of one


def test_a_training_in_step_can_go_on_apart(tmp_path: Path) -> None:
    constant = {"optimizer": {"schedule": {"type": "constant"}}}
    run_job(tmp_path, 2, spec(**constant, training={"steps": 2})).expect()
    run = run_job(tmp_path, 2, job(6, {"syncEvery": 2}, **constant), attempt=2).expect()
    assert run.series("loss")[-1] < run.series("loss")[0]


def test_told_to_stop_ends_the_round_at_once(tmp_path: Path) -> None:
    """The checkpoint is of weights that all have, at a step in the middle of a round; the run goes on from there."""

    def stop(processes: list[BaseProcess], beats: Any) -> None:
        wait_for_step(beats, 3)
        os.kill(processes[1].pid or 0, signal.SIGTERM)

    full = job(60, {"syncEvery": 50}, **SGD)
    run = run_job(tmp_path, 2, full, prepare=faults.slow_steps, watch=stop).expect(ExitCode.PREEMPTED)
    step = run.heartbeats[0].checkpoint_step
    assert step is not None
    assert 3 <= step < 50
    resumed = run_job(tmp_path, 2, full, attempt=2, prepare=count_sums).expect()
    assert resumed.metrics[-1]["step"] == 60
    expect_equal_replicas(resumed)


def test_an_outer_gradient_that_is_not_finite_ends_all_ranks(pool: Pool) -> None:
    for _, problems, _ in pool.run(3, outer_step, [[1.0, 2.0, 3.0], [1.0, float("nan"), 0.0]]):
        assert len(problems) == 1
        assert problems[0].startswith("step 4: the outer gradient is not finite; lower spec.optimizer.learningRate or")


def test_the_second_round_starts_where_the_first_has_led(pool: Pool) -> None:
    """By hand: the first mean is -2, and Nesterov's step from 0 leads to 0.5 (2 + 0.5 x 2) = 1.5."""
    (end, *_), *others = pool.run(3, outer_step, [[1.0, 2.0, 3.0], [4.5, 4.5, 4.5]], 0.5)
    mean = 1.5 - 4.5
    momentum = 0.5 * -2.0 + mean
    assert end.item() == pytest.approx(1.5 - 0.5 * (mean + 0.5 * momentum))
    assert all(torch.equal(end, it) for it, *_ in others)


def first_moments(directory: Path, replica: int) -> dict[str, torch.Tensor]:
    """What a checkpoint has of AdamW's for one replica."""
    prefix, reader = f"optimizer@{replica}.", dcp.FileSystemReader(directory)
    entries = {k: it for k, it in reader.read_metadata().state_dict_metadata.items() if k.startswith(prefix)}
    found = {k: torch.empty(it.size, dtype=it.properties.dtype) for k, it in entries.items() if k.endswith("exp_avg")}
    dcp.load(found, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): it for name, it in found.items()}


def norms(tensors: dict[str, torch.Tensor]) -> float:
    return sum(float(it.norm()) for it in tensors.values())


def forget_last(folder: Path) -> None:
    """Undo the checkpoint of step 8: the job goes on from the one of step 4."""
    (newest,) = folder.rglob("8-1")
    shutil.rmtree(newest)
    (newest.parent / "latest").write_text("4-1")
