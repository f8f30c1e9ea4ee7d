"""The same manifest with and without compression over a slow link between two nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adts_operator.core.times import to_seconds
from cluster.harness.cluster import Cluster
from support.cluster_jobs import PATIENCE, manifest
from support.operator_access import operating
from support.trainer_jobs import spread

pytestmark = pytest.mark.timeout(600)

LINK = "200mbit"
STEPS = 40
MODEL = {"type": "gpt", "layers": 4, "hiddenSize": 256, "heads": 4, "vocabularySize": 256}
BYTES = 4 * 3_200_000
"""About what an uncompressed step sends from each of two ranks: all gradients, in fp32."""


def test_the_compressed_job_finishes_first(
    own_cluster: Cluster, trainer_image: str, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    with operating(own_cluster, tmp_path) as place:
        jobs = place.jobs
        own_cluster.shape(LINK)
        try:
            jobs.apply(job("plain", place.namespace, trainer_image, {}))
            jobs.apply(job("small", place.namespace, trainer_image, {"method": "powersgd", "warmupSteps": 2}))
            small = jobs.wait("small", "Succeeded", 2 * PATIENCE)
            plain = jobs.wait("plain", "Succeeded", 4 * PATIENCE)
        finally:
            own_cluster.shape(None)
        nodes = {pod["spec"]["nodeName"] for name in ("plain", "small") for pod in jobs.pods(name)}
    assert nodes == {"n1", "n2"}
    took = {
        name: to_seconds(it["finishedAt"], 0.0) - to_seconds(it["startedAt"], 0.0)
        for name, it in (("plain", plain), ("small", small))
    }
    said = small["communication"]
    measured(
        f"{STEPS} steps over {LINK}, two jobs at once: {took['small']:.0f} s compressed, {took['plain']:.0f} s plain; "
        f"{said['wireBytesPerStep']:,} bytes a step, {said['ratio']:.0f} times fewer, "
        f"{said['exposedSeconds']:.3f} s of a step exposed"
    )
    assert took["small"] < took["plain"]
    assert plain["communication"]["wireBytesPerStep"] == pytest.approx(BYTES, rel=0.1)
    assert said["ratio"] > 10
    assert said["wireBytesPerStep"] * said["ratio"] == pytest.approx(BYTES, rel=0.1)


def job(name: str, namespace: str, image: str, compression: dict[str, Any]) -> dict[str, Any]:
    """A gpt of 3.2M parameters and little to compute, a worker on each node."""
    spec = {
        "image": image,
        "workers": {"replicas": 2, "template": {"spec": spread(name)}},
        "model": MODEL,
        "data": {"type": "synthetic", "sequenceLength": 16},
        "training": {"steps": STEPS, "globalBatchSize": 4, "device": "cpu", "logEverySteps": 5, "tensorboard": False},
    }
    return manifest(name, namespace, spec | ({"compression": compression} if compression else {}))
