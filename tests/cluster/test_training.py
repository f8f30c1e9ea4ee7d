"""The mission in one test: Helm installs the operator, `kubectl apply` of the example trains on two nodes."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from cluster.harness.cluster import Cluster
from support.cluster_jobs import Jobs, wait_for
from support.helm_release import RESTRICTED, Release, installed
from support.operator_access import new_namespace
from support.operator_runs import REAL
from support.trainer_jobs import shared_claim

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "examples/training.yaml"
USER = 65532
STEPS = 60
SHORT = {
    "training.steps": STEPS,
    "data.evaluation.everySteps": STEPS,
    "data.evaluation.samples": 64,
    "optimizer.schedule.warmupSteps": 10,
    "checkpoint.everySteps": 30,
}
"""What the test changes of the example: its length."""
TOLD_SECONDS = 15.0
Measured = Callable[[str], None]


@pytest.fixture(scope="module")
def release(
    own_cluster: Cluster, operator_image: str, trainer_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    home = tmp_path_factory.mktemp("helm")
    with installed(own_cluster, operator_image, home, trainer={"image": trainer_image}) as release:
        yield release


@pytest.fixture
def jobs(own_cluster: Cluster, release: Release) -> Iterator[Jobs]:
    with new_namespace(own_cluster, "adts-training", RESTRICTED) as name:
        yield Jobs(own_cluster.kubectl, name)


@pytest.fixture
def volumes(own_cluster: Cluster, jobs: Jobs, tmp_path: Path) -> Iterator[Path]:
    """Folders of this machine as the two claims of the example: both nodes see the same files."""
    tmp_path.chmod(0o755)
    with ExitStack() as claims:
        for name in ("training-data", "training-checkpoints"):
            claims.enter_context(shared_claim(own_cluster, jobs.namespace, name, tmp_path / name))
        yield tmp_path


def adts(*arguments: str) -> None:
    done = subprocess.run([*REAL, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def losses(checkpoints: Path) -> dict[int, float]:
    """Loss by step, as the run logged it."""
    lines = (checkpoints / "metrics.jsonl").read_text().splitlines()
    return {it["step"]: it["loss"] for it in map(json.loads, lines) if "loss" in it}


def test_the_example_trains_on_two_nodes_as_it_does_without_a_cluster(
    own_cluster: Cluster, jobs: Jobs, volumes: Path, measured: Measured
) -> None:
    local = volumes / "local"
    prepare = ("data", "prepare", "docs", "--include", "*.md", "--holdout", "0.2", "--out")
    adts(*prepare, str(local / "data" / "stdlib.bin"))
    for file in (local / "data").iterdir():
        shutil.copy(file, volumes / "training-data")
    job = yaml.safe_load(MANIFEST.read_text())
    for path, value in SHORT.items():
        *blocks, field = path.split(".")
        block = job["spec"]
        for name in blocks:
            block = block[name]
        block[field] = value
    job["metadata"]["namespace"] = jobs.namespace
    jobs.apply(job)

    wait_for(lambda: jobs.status("training").get("phase") == "Running", 240, "Running", lambda: jobs.get("training"))
    pods = jobs.pods("training")
    assert {pod["spec"]["nodeName"] for pod in pods} == {"n1", "n2"}
    limits = [pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in pods]
    assert limits == ["1", "1"]
    own_cluster.kubectl(
        "-n", jobs.namespace, "wait", "--for=condition=Complete", "dtrain/training", "--timeout=300s", timeout=310
    )

    status = jobs.status("training")
    assert (status["phase"], status["progress"]["step"], status["checkpoint"]["step"]) == ("Succeeded", STEPS, STEPS)
    header, row = own_cluster.kubectl("-n", jobs.namespace, "get", "distributedtrainings").splitlines()
    shown = dict(zip(re.split(r"\s{2,}", header), re.split(r"\s{2,}", row), strict=True))
    assert (shown["PHASE"], shown["STEP"]) == ("Succeeded", str(STEPS))
    assert float(shown["LOSS"]) > 0
    assert float(shown["TOKENS/S"]) > 0

    assignments = [word for path, value in SHORT.items() for word in ("--set", f"{path}={value}")]
    adts("run", str(MANIFEST), "--workdir", str(local), *assignments)
    here, there = losses(local / "training/checkpoints"), losses(volumes / "training-checkpoints")
    assert here.keys() == there.keys()
    assert len(here) > STEPS // 10
    gap = max(abs(here[step] - there[step]) / abs(here[step]) for step in here)
    measured(f"two pods on two nodes against a local run: losses differ by at most {gap:.1e} (relative)")
    assert gap <= 1e-5
    assert math.isclose(status["progress"]["loss"], there[STEPS], rel_tol=1e-4)
