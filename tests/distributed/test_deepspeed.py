"""ZeRO by DeepSpeed equals one process, in fp32 as far as rounding lets it, and its traps are not stepped into."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from adts_api.contract import ExitCode
from adts_trainer.selfcheck import compare
from adts_trainer.weights import load_weights
from support.faults import count_collectives, uneven_targets
from support.ranks import Finished, custom, run_job, spec
from support.zero_faults import (
    activations_in_parts,
    averaged_loss,
    averaged_pipeline,
    copies_added_by_deepspeed,
    copies_that_both_count,
    default_clipping,
    killed_while_compiling,
    nan_in_the_last_stage,
    unmarked_cuts,
)

pytestmark = pytest.mark.distributed

STEPS = 10
OFFLOADED = {"offload": {"optimizer": "cpu"}}
ALL_OFFLOADED = {"offload": {"optimizer": "cpu", "parameters": "cpu"}}
LLAMA = {"shape": "llama", "keyValueHeads": 2, "tieEmbeddings": False, "dropout": 0.1}
TENSOR = {"parallelism": {"tensor": 2}}
PIPELINE = {"parallelism": {"pipeline": 2, "microbatches": 2}}
SEQUENCE = {"parallelism": {"pipeline": 2, "microbatches": 2, "tensor": 2, "sequenceParallel": True}}


def job(stage: int, zero: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A job of a stage by DeepSpeed, in fp32 unless said otherwise."""
    changes["precision"] = {"dtype": "fp32", **changes.get("precision", {})}
    return spec(zero={"stage": stage, "engine": "deepspeed", **(zero or {})}, **changes)


@functools.cache
def alone(micro_batches: int, model: str = "{}", uneven: bool = False) -> Finished:
    """The same in one process, without ZeRO, in so many micro-batches."""
    changes = {"parallelism": {"microbatches": micro_batches}, "model": json.loads(model)}
    folder = Path(tempfile.mkdtemp(prefix="adts-test-"))
    prepare = uneven_targets if uneven else None
    return run_job(folder, 1, spec(precision={"dtype": "fp32"}, **changes), prepare=prepare).expect()


def gap(run: Finished, other: Finished, name: str) -> float:
    """Largest difference of a series over the steps."""
    return max(abs(a - b) for a, b in zip(run.series(name), other.series(name), strict=True))


def bound(name: str, *key: Any) -> float:
    """Four times what the number of micro-batches alone changes in one process, or 1e-6."""
    return max(1e-6, 4 * gap(alone(4, *key), alone(1, *key), name))


CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "stage 1 on 2": (2, job(1)),
    "stage 1 on 2, 4 micro-batches": (2, job(1, parallelism={"microbatches": 4})),
    "stage 2 on 4, 2 micro-batches": (4, job(2, parallelism={"microbatches": 2})),
    "stage 3 on 4, 2 micro-batches": (4, job(3, parallelism={"microbatches": 2})),
    "stage 3 on 1": (1, job(3)),
    "stage 1 on 2, many buckets": (2, job(1, communication={"bucketMegabytes": 0.01})),
    "stage 2 on 2, optimizer offloaded, 2 micro-batches": (2, job(2, OFFLOADED, parallelism={"microbatches": 2})),
    "stage 3 on 2, all offloaded": (2, job(3, ALL_OFFLOADED)),
    "stage 3 on 2, recomputed": (2, job(3, training={"activationCheckpointing": "full"})),
    "stage 1, tensor 2": (2, job(1, **TENSOR)),
    "stage 2, tensor 2 x data 2, sequence parallel": (4, job(2, parallelism={"tensor": 2, "sequenceParallel": True})),
    "stage 3, tensor 2 x data 2": (4, job(3, **TENSOR)),
    "stage 2 on 2, llama, untied, dropout": (2, job(2, model=LLAMA)),
    "stage 3, tensor 2, llama, untied, dropout": (2, job(3, model=LLAMA, **TENSOR)),
    "pipeline 3, llama, untied, dropout": (
        3,
        job(1, model=LLAMA, parallelism={"pipeline": 3, "microbatches": 4}),
    ),
    "pipeline 2 x data 2, optimizer offloaded": (4, job(1, OFFLOADED, **PIPELINE)),
}


@pytest.mark.parametrize(("world", "changed"), CASES.values(), ids=CASES.keys())
def test_twenty_clipped_adamw_steps_equal_one_process(world: int, changed: dict[str, Any], tmp_path: Path) -> None:
    run = run_job(tmp_path, world, changed).expect()
    key = json.dumps(LLAMA if changed["model"].get("shape") else {})
    assert min(run.series("gradient_norm")) > changed["optimizer"]["clipNorm"], "every step must clip"
    for name in ("loss", "gradient_norm"):
        difference, allowed = gap(run, alone(1, key), name), bound(name, key)
        print(f"{name}: {difference:.1e} of {allowed:.1e}")
        assert difference <= allowed


def test_uneven_numbers_of_targets_weigh_every_target_alike(tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, job(2, parallelism={"microbatches": 4}), prepare=uneven_targets).expect()
    for name in ("loss", "gradient_norm"):
        assert gap(run, alone(1, "{}", True), name) <= bound(name)


@pytest.mark.parametrize(
    ("trap", "name", "world", "stage", "changes"),
    [
        (unmarked_cuts, "gradient_norm", 2, 1, TENSOR),
        (unmarked_cuts, "gradient_norm", 2, 3, TENSOR),
        (averaged_loss, "gradient_norm", 2, 2, {}),
        (default_clipping, "loss", 2, 1, {}),
        (averaged_pipeline, "gradient_norm", 2, 1, PIPELINE),
        (activations_in_parts, "loss", 4, 1, SEQUENCE),
        (copies_that_both_count, "gradient_norm", 2, 1, PIPELINE),
        (copies_added_by_deepspeed, "gradient_norm", 2, 1, {**PIPELINE, "precision": {"dtype": "fp16"}}),
    ],
    ids=[
        "cuts not marked",
        "cuts not marked, stage 3",
        "average left in",
        "clipping by default",
        "average left in a pipeline",
        "parts of sequences taken for parts of activations",
        "a copy of the embedding counts as well",
        "tied gradients not added in fp16",
    ],
)
def test_without_a_precaution_it_trains_wrongly(
    trap: Any, name: str, world: int, stage: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    run = run_job(tmp_path, world, job(stage, **changes), prepare=trap).expect()
    allowed = compare.HALF["fp16"][1] if "precision" in changes else 100 * bound(name)
    difference = gap(run, alone(1), name)
    print(f"{name}: {difference:.1e} of {allowed:.1e}")
    assert difference > allowed


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "allowed"), [("bf16", 2e-2), ("fp16", 3e-3)])
def test_half_precision_follows_the_full_loss(dtype: str, allowed: float, stage: int, tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, job(stage, precision={"dtype": dtype}, parallelism={"microbatches": 2})).expect()
    assert 0 < gap(run, alone(1), "loss") <= allowed


def misbehaving(stage: int, action: str, calls: list[int], policy: str, **changes: Any) -> dict[str, Any]:
    """A job whose model fails on rank 1 in these of its passes, with a checkpoint every 4 steps."""
    model = custom("Misbehaving", rank=1, calls=calls, action=action)
    training = {"steps": STEPS, "onDivergence": policy}
    return job(stage, model=model, training=training, checkpoint={"everySteps": 4}, **changes)


def manifest(run: Finished) -> dict[str, Any]:
    return json.loads((run.folder / f"{STEPS}-1" / "manifest.json").read_text())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_overflow_on_one_rank_halves_the_scale_of_all_and_drops_the_step(stage: int, tmp_path: Path) -> None:
    overflowing = misbehaving(stage, "overflow", [3, 5], "stop", precision={"dtype": "fp16"})
    run = run_job(tmp_path, 2, overflowing).expect()
    assert manifest(run)["scaler"] == {"active": True, "scale": 65536 / 4, "goodSteps": STEPS - 5}
    assert manifest(run)["skippedSteps"] == []
    norms = run.series("gradient_norm")
    assert [step for step, norm in enumerate(norms, start=1) if norm is None] == [3, 5]


@pytest.mark.parametrize("zero", [{}, OFFLOADED], ids=["", "offloaded"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_rollback_ends_where_skipping_ends(stage: int, zero: dict[str, Any], tmp_path: Path) -> None:
    runs = [
        run_job(tmp_path / policy, 2, misbehaving(stage, "nan", [6], policy, zero=zero)).expect()
        for policy in ("skip", "rollback")
    ]
    assert [manifest(run)["skippedSteps"] for run in runs] == [[5], [5]]
    skipped, rolled = (load_weights(run.folder / f"{STEPS}-1") for run in runs)
    assert all(rolled[name].equal(value) for name, value in skipped.items())


def test_an_overflow_of_a_pipeline_drops_the_step_on_all_its_stages(tmp_path: Path) -> None:
    dtype = {"dtype": "fp16", "initialLossScale": 2.0**24, "lossScaleInterval": 1000}
    run = run_job(tmp_path, 2, job(1, precision=dtype, **PIPELINE)).expect()
    norms = run.series("gradient_norm")
    dropped, since = norms.count(None), norms[::-1].index(None)
    assert 0 < dropped < len(norms)
    state = json.loads((run.folder / f"{len(norms)}-1" / "manifest.json").read_text())
    assert state["scaler"] == {"active": True, "scale": 2.0 ** (24 - dropped), "goodSteps": since}


def test_rollback_of_a_pipeline_ends_where_skipping_ends(tmp_path: Path) -> None:
    changes = {"checkpoint": {"everySteps": 4}, **PIPELINE}
    policies = [job(1, training={"steps": STEPS, "onDivergence": policy}, **changes) for policy in ("skip", "rollback")]
    runs = [
        run_job(tmp_path / str(number), 2, policy, prepare=nan_in_the_last_stage).expect()
        for number, policy in enumerate(policies)
    ]
    assert [manifest(run)["skippedSteps"] for run in runs] == [[5], [5]]
    skipped, rolled = (load_weights(run.folder / f"{STEPS}-1") for run in runs)
    assert all(rolled[name].equal(value) for name, value in skipped.items())


def test_a_parameter_that_took_no_part_is_named(tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, job(3, model=custom("WithIdleParameter"))).expect(ExitCode.USER_CODE)
    assert "2 parameters took no part in the loss (forgotten.weight, forgotten.bias)" in run.errors[0]


HALF, WHOLE = 4, 8


def part(steps: int, changed: dict[str, Any]) -> dict[str, Any]:
    """A job of so many steps, whose learning rate does not depend on their number."""
    changed = json.loads(json.dumps(changed))
    changed["optimizer"]["schedule"] = {"type": "constant", "warmupSteps": 2}
    changed["training"]["steps"] = steps
    return changed


@pytest.mark.parametrize(
    ("world", "changed"),
    [
        (2, job(1)),
        (2, job(2, OFFLOADED)),
        (2, job(3)),
        (2, job(1, precision={"dtype": "fp16", "lossScaleInterval": 3, "initialLossScale": 1024.0})),
        (2, job(3, precision={"dtype": "bf16"})),
        (2, job(1, precision={"dtype": "bf16"}, **PIPELINE)),
    ],
    ids=["stage 1", "stage 2 offloaded", "stage 3", "stage 1 in fp16", "stage 3 in bf16", "pipeline in bf16"],
)
def test_at_the_same_layout_a_resumed_run_is_bitwise_equal(world: int, changed: dict[str, Any], tmp_path: Path) -> None:
    whole = run_job(tmp_path / "whole", world, part(WHOLE, changed)).expect()
    run_job(tmp_path / "halves", world, part(HALF, changed)).expect()
    halves = run_job(tmp_path / "halves", world, part(WHOLE, changed), attempt=2).expect()
    assert halves.series("loss") == whole.series("loss")
    assert halves.series("gradient_norm") == whole.series("gradient_norm")


def test_any_engine_goes_on_from_any_other(tmp_path: Path) -> None:
    """Two steps in each of these layouts are as many steps of one process."""
    native = spec(precision={"dtype": "fp32"}, zero={"stage": 3, "engine": "native"})
    ddp = spec(precision={"dtype": "fp32"})
    layouts = [(2, ddp), (4, job(1, **SEQUENCE)), (4, job(2, **TENSOR)), (2, job(3, ALL_OFFLOADED)), (2, native)]
    layouts += [(2, job(2, OFFLOADED)), (3, job(3, training={"globalBatchSize": 12})), (4, job(1, **PIPELINE))]
    layouts += [(1, ddp)]
    batch = {"training": {**ddp["training"], "globalBatchSize": 12}}
    last = 0
    for last, (world, layout) in enumerate(layouts, start=1):
        run = run_job(tmp_path / "chain", world, part(2 * last, {**layout, **batch}), attempt=last).expect()
    whole = run_job(tmp_path / "whole", 1, part(2 * last, {**ddp, **batch})).expect()
    assert run.series("samples_digest") == whole.series("samples_digest")
    assert gap(run, whole, "loss") <= 1e-6
    assert gap(run, whole, "gradient_norm") <= bound("gradient_norm")


@pytest.mark.parametrize(
    ("world", "stage", "changes"),
    [
        (2, 1, {"parallelism": {"microbatches": 2}}),
        (2, 2, {"parallelism": {"microbatches": 2}, "precision": {"dtype": "bf16"}}),
        (3, 3, {"precision": {"dtype": "bf16"}}),
        (2, 3, {"parallelism": {"microbatches": 2}, "model": {"hiddenSize": 384}}),
    ],
    ids=["stage 1", "stage 2", "stage 3, all kept whole", "stage 3"],
)
def test_wire_bytes_are_what_collectives_get(world: int, stage: int, changes: dict[str, Any], tmp_path: Path) -> None:
    """From the second step on: stage 3 first learns in which order it needs what."""
    counting = job(stage, training={"steps": 2, "globalBatchSize": 12}, **changes)
    run = run_job(tmp_path, world, counting, prepare=count_collectives).expect()
    counted = {int(number) for number in re.findall(r"counted (\d+)", run.output)[world:]}
    control = 64  # a few sums of norms
    assert max(abs(it - run.heartbeats[0].wire_bytes_per_step) for it in counted) <= control


@pytest.mark.parametrize("changed", [job(1), job(3), job(1, **PIPELINE)], ids=["stage 1", "stage 3", "pipeline"])
def test_nothing_is_compiled_and_nothing_but_our_lines_is_printed(changed: dict[str, Any], tmp_path: Path) -> None:
    run = run_job(tmp_path, 2, part(2, changed), prepare=killed_while_compiling).expect()
    assert all(re.match(r"0\.04M parameters, |step \d/2  ", line) for line in run.output.splitlines()), run.output
    (extensions,) = tmp_path.glob("run-*/extensions")
    assert [path.name for path in extensions.rglob("*")] == ["deepspeed_shm_comm", "lock"]
