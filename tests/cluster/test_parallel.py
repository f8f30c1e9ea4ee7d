"""Tensor x pipeline x data parallelism over two nodes: killed once, resumed, and the loss of one process at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from adts_trainer.selfcheck.cells import BASE
from cluster.harness.access import Access
from support.cluster_jobs import PATIENCE, attempt_of, manifest, wait_for
from support.operator_access import operating
from support.ranks import run_job
from support.trainer_jobs import shared_claim, spread

pytestmark = pytest.mark.timeout(600)

STEPS = 120
BOUND = 1e-5
"""Relative, as for any job on the cluster against a local one in fp32."""
Measured = Callable[[str], None]


def test_a_killed_job_of_eight_processes_ends_with_the_loss_of_one(
    own_cluster: Access, trainer_image: str, tmp_path: Path, measured: Measured
) -> None:
    training = {**BASE["training"], "steps": STEPS, "logEverySteps": 1}
    model = {block: BASE[block] for block in ("model", "data", "optimizer")}
    spec = {**model, "training": training, "precision": {"dtype": "fp32"}}
    claim = tmp_path / "checkpoints"
    with operating(own_cluster, tmp_path) as place, shared_claim(own_cluster, place.namespace, "cube", claim):
        workers = {"replicas": 2, "processesPerWorker": 4, "template": {"spec": spread("cube")}}
        layout = {
            "image": trainer_image,
            "workers": workers,
            "parallelism": {"tensor": 2, "pipeline": 2, "microbatches": 4},
            "zero": {"stage": 1},
            "checkpoint": {"claim": "cube", "everySteps": 10},
        }
        jobs = place.jobs
        jobs.apply(manifest("cube", place.namespace, spec | layout))
        wait_for(
            lambda: jobs.status("cube").get("checkpoint", {}).get("step", 0) >= 10,
            3 * PATIENCE,
            "a checkpoint",
            lambda: jobs.status("cube"),
        )
        pods = jobs.pods("cube")
        assert {pod["spec"]["nodeName"] for pod in pods} == {"n1", "n2"}
        own_cluster.kubectl("-n", place.namespace, "delete", "pod", "cube-1-1", "--grace-period=0", "--force")
        status = jobs.wait("cube", "Succeeded", 4 * PATIENCE)
        assert (status["attempt"], status["layout"]) == (2, "dp2 x tp2 x pp2, zero 1")
        assert {attempt_of(pod) for pod in jobs.pods("cube")} == {2}
        resumed = status["restarts"][-1]
        assert resumed["pod"] == "cube-1-1"
        jobs.delete("cube")
    alone = run_job(tmp_path / "alone", 1, spec).expect()
    there = losses(claim)
    expected = dict(zip(alone.series("step"), alone.series("loss"), strict=True))
    assert there.keys() == expected.keys()
    gap = max(abs(there[step] - expected[step]) / expected[step] for step in expected)
    measured(f"dp2 x tp2 x pp2 on two nodes, killed once, against one process: losses differ by {gap:.1e} (relative)")
    assert math.isfinite(gap)
    assert gap <= BOUND


def losses(checkpoints: Path) -> dict[int, float]:
    """Loss by step, as the job logged it."""
    lines = map(json.loads, (checkpoints / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}
