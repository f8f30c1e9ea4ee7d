"""Jobs that really train in their pods, on the CPU, with checkpoints in a claim that all nodes share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.harness.access import Access
from support.cluster_jobs import manifest

ENDLESS = 10_000_000
"""Steps of a job that trains until it is deleted."""
NODE = "kubernetes.io/hostname"


@contextmanager
def shared_claim(cluster: Access, namespace: str, name: str, folder: Path) -> Iterator[None]:
    """A claim on a folder of this machine, whose file system both nodes of our own cluster see."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)  # the trainer is no root
    volume_name = f"{namespace}-{name}"
    size = {"storage": "1Gi"}
    shared = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume_name},
        "spec": {**shared, "capacity": size, "hostPath": {"path": str(folder)}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**shared, "volumeName": volume_name, "resources": {"requests": size}},
    }
    cluster.kubectl(
        "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [volume, claim]})
    )
    try:
        yield
    finally:
        cluster.kubectl("-n", namespace, "delete", "persistentvolumeclaim", name, "--wait=false")
        cluster.kubectl("delete", "persistentvolume", volume_name, "--wait=false")


def training(
    name: str, namespace: str, image: str, *, steps: int = ENDLESS, every_steps: int = 20, **spec: Any
) -> dict[str, Any]:
    """A small classifier on two workers; a checkpoint every few seconds, in the claim of its name."""
    ours = {
        "image": image,
        "workers": {"replicas": 2, **spec.pop("workers", {})},
        "model": {"type": "mlp", "layers": 2, "hiddenSize": 64, "inputSize": 32, "outputSize": 10},
        "data": {"type": "synthetic"},
        "optimizer": {"name": "sgd", "learningRate": 0.01, "weightDecay": 0.0},
        "training": {"steps": steps, "globalBatchSize": 64, "device": "cpu", "tensorboard": False},
        "checkpoint": {"everySteps": every_steps, "claim": name},
    }
    return manifest(name, namespace, ours | spec)


def spread(name: str) -> dict[str, Any]:
    """Part of a template: a worker on each node, as long as there are enough."""
    term = {"labelSelector": {"matchLabels": {"adts.dev/job": name}}, "topologyKey": NODE}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}
