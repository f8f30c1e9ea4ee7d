"""The search for a layout: what fits, in which order, what `mode: auto` takes, what is refused before a pod exists."""

from __future__ import annotations

import time
from typing import Any

import pytest

from adts_api import rules_layout
from adts_api.estimate_memory import peak
from adts_api.estimate_time import Hardware
from adts_api.planner import MARGIN, choose, device_memory, layout_words, reserved_bytes, search
from adts_api.quantity import parse_bytes, show_bytes
from adts_api.rules_memory import rule_memory
from adts_api.shapes import UnknownShapeError
from adts_api.topology import topology
from adts_api.v1alpha1 import Spec

RULES = (
    rules_layout.rule_tensor,
    rules_layout.rule_tensor_sizes,
    rules_layout.rule_pipeline,
    rules_layout.rule_stages,
    rules_layout.rule_global_batch,
)
"""Arithmetic only: what has code yet is not this test's subject."""

SEVEN_BILLION: dict[str, Any] = {
    "model": {
        "type": "gpt",
        "shape": "llama",
        "layers": 32,
        "hiddenSize": 4096,
        "heads": 32,
        "vocabularySize": 32000,
        "tieEmbeddings": False,
    },
    "data": {"type": "synthetic", "sequenceLength": 4096},
    "precision": {"dtype": "bf16"},
    "training": {"steps": 10, "globalBatchSize": 64},
    "workers": {"replicas": 2, "gpusPerWorker": 8, "gpuMemory": "80Gi"},
}
H100 = Hardware("H100", worker_link=450e9, network_link=50e9)


def spec(base: dict[str, Any] = SEVEN_BILLION, **blocks: Any) -> Spec:
    merged = {**base, **{name: {**base.get(name, {}), **block} for name, block in blocks.items()}}
    return Spec.model_validate(merged, by_alias=True)


def test_every_layout_fits_loses_or_is_refused_and_none_is_forgotten() -> None:
    found = search(spec(training={"globalBatchSize": 24}), H100, RULES)
    assert found.fitting
    assert found.too_large
    assert "spec.training.globalBatchSize 24 is no multiple of 16 data ranks" in found.refused
    ranked = [it.cost.total_seconds for it in found.fitting]
    assert ranked == sorted(ranked)
    assert all(it.reserved <= 80 * 2**30 for it in found.fitting)
    assert all(it.reserved > 80 * 2**30 for it in found.too_large)
    words = [layout_words(it.spec) for it in (*found.fitting, *found.too_large)]
    assert len(words) == len(set(words))


def test_fixed_fields_stay_and_free_ones_vary() -> None:
    found = search(spec(parallelism={"tensor": 4}, zero={"stage": 2}), H100, RULES)
    candidates = [*found.fitting, *found.too_large]
    assert {it.spec.parallelism.tensor for it in candidates} == {4}
    assert {it.spec.zero.stage for it in candidates} == {2}
    assert len({it.spec.parallelism.pipeline for it in candidates}) > 1
    assert {it.spec.training.activation_checkpointing for it in candidates} == {"none", "full"}


def test_a_slow_network_keeps_traffic_inside_workers() -> None:
    fast, slow = (search(spec(), Hardware("H100", 450e9, speed), RULES).best for speed in (450e9, 0.1e9))
    assert fast is not None
    assert slow is not None
    assert slow.cost.sent(leaves_worker=True) < fast.cost.sent(leaves_worker=True)


def test_without_speeds_there_are_no_seconds_and_the_plan_says_so() -> None:
    found = search(spec(), rules=RULES)
    assert found.best is not None
    assert found.best.cost.seconds is None
    assert len(found.unknown) == 1
    assert "no seconds" in found.unknown[0]
    assert search(spec(), H100, RULES).unknown == []


def test_unknown_memory_leaves_nothing_out() -> None:
    found = search(spec(workers={"gpuMemory": ""}), H100, RULES)
    assert found.too_large == []
    assert "gpuMemory" in found.unknown[0]


def test_auto_takes_the_best_that_fits_and_becomes_manual() -> None:
    job = spec(parallelism={"mode": "auto"})
    chosen = choose(job, RULES)
    assert chosen.parallelism.mode == "manual"
    assert reserved_bytes(peak(chosen).total) <= 80 * 2**30
    assert topology(chosen).world_size == 16
    assert choose(chosen, RULES) == chosen
    assert [*rule_memory(chosen, RULES)] == []
    best = search(job, rules=RULES).best
    assert best is not None
    assert chosen == best.spec


def test_auto_leaves_manual_specs_and_unknown_models_alone() -> None:
    manual = spec()
    assert choose(manual) is manual
    unknown = spec(model={"type": "custom", "factory": "a:b"}, parallelism={"mode": "auto"})
    assert choose(unknown) is unknown
    with pytest.raises(UnknownShapeError):
        search(unknown)


def test_a_job_that_cannot_fit_is_refused_with_the_missing_bytes_and_the_nearest_layout_that_fits() -> None:
    (error,) = rule_memory(spec(), RULES)
    assert error.path == "spec.workers.gpuMemory"
    assert error.problem.startswith("80Gi lacks ")
    assert "that dp16, zero 0, 1 micro-batch needs (activations " in error.problem
    fields = dict(part.rsplit(" ", 1) for part in error.fix.removeprefix("use ").split(" with "))
    changed = spec(
        parallelism={
            name.partition(".")[2]: int(value) for name, value in fields.items() if name.startswith("parallelism.")
        },
        zero={"stage": int(fields.get("zero.stage", 0))},
        training={"activationCheckpointing": fields.get("training.activationCheckpointing", "none")},
    )
    assert [*rule_memory(changed, RULES)] == []


def test_where_nothing_fits_the_smallest_layout_is_named() -> None:
    (error,) = rule_memory(spec(workers={"gpuMemory": "2Gi"}, parallelism={"mode": "auto"}), RULES)
    assert "recomputed needs (" in error.problem
    assert error.fix.startswith("no other layout of these GPUs fits")


SILENT = {
    "unknown memory": {"workers": {"gpuMemory": ""}},
    "the CPU": {"training": {"device": "cpu"}},
    "a model of unknown size": {"model": {"type": "custom", "factory": "a:b"}},
    "an unknown vocabulary": {"model": {"vocabularySize": 0}, "data": {"type": "tokens", "path": "x"}},
}


@pytest.mark.parametrize("blocks", SILENT.values(), ids=SILENT)
def test_nothing_is_refused_for_what_is_not_known(blocks: dict[str, Any]) -> None:
    assert [*rule_memory(spec(**blocks), RULES)] == []


def test_in_doubt_within_the_margin_a_job_is_let_through() -> None:
    needed = reserved_bytes(peak(spec()).total)
    inside, outside = (int(needed * (1 - MARGIN)) + change for change in (2**20, -(2**20)))
    assert [*rule_memory(spec(workers={"gpuMemory": str(inside)}), RULES)] == []
    assert len([*rule_memory(spec(workers={"gpuMemory": str(outside)}), RULES)]) == 1


def test_a_search_over_a_thousand_gpus_takes_seconds() -> None:
    begin = time.perf_counter()
    search(spec(workers={"replicas": 128}, training={"globalBatchSize": 2048}), H100, RULES)
    assert time.perf_counter() - begin < 30  # 1.3 s where nothing else runs


@pytest.mark.parametrize(
    ("text", "count"), [("80Gi", 80 * 2**30), ("1.5Ki", 1536), ("16G", 16 * 10**9), ("5", 5), ("2Ti", 2**41)]
)
def test_quantities(text: str, count: int) -> None:
    assert parse_bytes(text) == count


def test_bytes_read_well() -> None:
    assert [show_bytes(it) for it in (3, 2048, 5 * 2**20, 80 * 2**30)] == ["3 B", "2 KiB", "5 MiB", "80.0 GiB"]
    with pytest.raises(ValueError, match="no quantity"):
        parse_bytes("80 Gi")


def test_memory_counts_on_gpus_only() -> None:
    assert device_memory(spec()) == 80 * 2**30
    assert device_memory(spec(training={"device": "cpu"})) is None
