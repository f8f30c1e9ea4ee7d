"""One pod of the gang as a plain dict, before and after the user's template is laid over it."""

from __future__ import annotations

from typing import Any

from adts_api.contract import (
    CONTAINER,
    LABEL_ATTEMPT,
    LABEL_INDEX,
    MOUNT_CHECKPOINTS,
    MOUNT_CONFIG,
    MOUNT_DATA,
    MOUNT_SHM,
    MOUNT_TOKEN,
)
from adts_api.topology import processes_per_worker
from adts_api.v1alpha1 import DistributedTraining
from adts_operator.core.environment import HOME, TEMPORARY, build_environment, ports, uses_host_network
from adts_operator.core.names import config_map_name, pod_name, secret_name, service_name
from adts_operator.core.template import merge

COMMAND = ["python", "-m", "adts_trainer"]
USER = 65532  # of our image; a claim's files belong to this group
UNREACHABLE_SECONDS = 30  # instead of the cluster's 300: a gang waits for its slowest restart
GPU = "nvidia.com/gpu"
SHM_PER_GPU_PROCESS_MIB = 1024  # NCCL's channels and torch's shared tensors
SHM_MIB = 256  # heartbeats and stacks


def build_pod(
    job: DistributedTraining, attempt: int, index: int, image: str, metadata: dict[str, Any]
) -> dict[str, Any]:
    """One pod of an attempt. `metadata` holds its name, and the labels and the owner that all children share."""
    numbers = {LABEL_ATTEMPT: str(attempt), LABEL_INDEX: str(index)}
    template = job.spec.workers.template
    theirs = {key: value for key, value in (template.get("metadata") or {}).items() if key in ("labels", "annotations")}
    ours = {**metadata, "labels": {**metadata["labels"], **numbers}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": metadata["name"], **merge(theirs, ours)},  # ours over theirs: we are found by our labels
        "spec": merge(_spec(job, attempt, index, image), template.get("spec") or {}),
    }


def _spec(job: DistributedTraining, attempt: int, index: int, image: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "hostname": pod_name(job.metadata.name, index, attempt),
        "subdomain": service_name(job.metadata.name),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.spec.run_policy.grace_period_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "tolerations": [
            {
                "key": f"node.kubernetes.io/{taint}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": UNREACHABLE_SECONDS,
            }
            for taint in ("not-ready", "unreachable")
        ],
        "containers": [_container(job, attempt, index, image)],
        "volumes": _volumes(job, attempt),
    }
    if not job.spec.command:  # a user's own image may need root
        spec["securityContext"] = {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    if uses_host_network(job):
        spec["dnsPolicy"] = "ClusterFirstWithHostNet"
    return spec


def _container(job: DistributedTraining, attempt: int, index: int, image: str) -> dict[str, Any]:
    master, launcher = ports(job)
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": image,
        "command": list(job.spec.command or COMMAND),
        "env": build_environment(job, attempt, index),
        "ports": [{"name": "master", "containerPort": master}, {"name": "launcher", "containerPort": launcher}],
        "terminationMessagePolicy": "FallbackToLogsOnError",  # its last output ends up in the status
        "volumeMounts": [
            {"name": "config", "mountPath": MOUNT_CONFIG, "readOnly": True},
            {"name": "token", "mountPath": MOUNT_TOKEN, "readOnly": True},
            {"name": "shm", "mountPath": MOUNT_SHM},
            {"name": "data", "mountPath": MOUNT_DATA, "readOnly": bool(job.spec.data.claim)},
            {"name": "checkpoints", "mountPath": MOUNT_CHECKPOINTS},
        ],
    }
    if not job.spec.command:
        container["volumeMounts"] += [
            {"name": "home", "mountPath": HOME},
            {"name": "temporary", "mountPath": TEMPORARY},
        ]
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
    if job.spec.workers.gpus_per_worker:
        container["resources"] = {"limits": {GPU: str(job.spec.workers.gpus_per_worker)}}
    return container


def _volumes(job: DistributedTraining, attempt: int) -> list[dict[str, Any]]:
    name, uid = job.metadata.name, job.metadata.uid
    size = SHM_PER_GPU_PROCESS_MIB * processes_per_worker(job.spec) if job.spec.workers.gpus_per_worker else SHM_MIB
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": config_map_name(name, attempt)}},
        {"name": "token", "secret": {"secretName": secret_name(name, uid), "defaultMode": 0o440}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{size}Mi"}},
        {"name": "data", **_claim(job.spec.data.claim, read_only=True)},
        {"name": "checkpoints", **_claim(job.spec.checkpoint.claim, read_only=False)},
    ]
    if not job.spec.command:
        volumes += [{"name": "home", "emptyDir": {}}, {"name": "temporary", "emptyDir": {}}]
    return volumes


def _claim(name: str, *, read_only: bool) -> dict[str, Any]:
    """A claim, or a folder that ends with the pod."""
    if not name:
        return {"emptyDir": {}}
    source: dict[str, Any] = {"claimName": name}
    return {"persistentVolumeClaim": source | {"readOnly": True} if read_only else source}
