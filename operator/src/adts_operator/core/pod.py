"""One pod of the gang as a plain dict, before and after the user's template is laid over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from adts_operator.core import gang
from adts_operator.core.environment import (
    HOME,
    TEMPORARY,
    build_environment,
    ports,
    runs_our_image,
    uses_host_network,
)
from adts_operator.core.names import config_map_name, pod_name, secret_name, service_name
from adts_operator.core.template import merge

COMMAND = ["python", "-m", "adts_trainer"]
USER = 65532  # of our image; a claim's files belong to this group
UNREACHABLE_SECONDS = 30  # instead of the cluster's 300: a gang waits for its slowest restart
GPU = "nvidia.com/gpu"
SHM_PER_GPU_PROCESS_MIB = 1024  # NCCL's channels and torch's shared tensors
SHM_MIB = 256  # heartbeats and stacks


@dataclass(frozen=True)
class Folder:
    """A volume and where the container `trainer` sees it."""

    name: str
    path: str
    source: Mapping[str, Any]
    read_only: bool = False


def build_pod(
    job: DistributedTraining,
    attempt: int,
    index: int,
    metadata: dict[str, Any],
    *,
    image: str,
    pull_secrets: Sequence[str] = (),
) -> dict[str, Any]:
    """One pod of an attempt. `metadata` holds its name, and the labels and the owner that all children share."""
    numbers = {LABEL_ATTEMPT: str(attempt), LABEL_INDEX: str(index)}
    template = job.spec.workers.template
    theirs = {key: value for key, value in (template.get("metadata") or {}).items() if key in ("labels", "annotations")}
    group = gang.pod_metadata(job, attempt)
    ours = {**metadata, "labels": {**metadata["labels"], **numbers, **group["labels"]}}
    if group["annotations"]:
        ours["annotations"] = group["annotations"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": metadata["name"], **merge(theirs, ours)},  # ours over theirs: we are found by our labels
        "spec": merge(_spec(job, attempt, index, image, pull_secrets), template.get("spec") or {}),
    }


def _spec(
    job: DistributedTraining, attempt: int, index: int, image: str, pull_secrets: Sequence[str]
) -> dict[str, Any]:
    folders = _folders(job, attempt)
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
        "containers": [_container(job, attempt, index, image, folders)],
        "volumes": [{"name": it.name, **it.source} for it in folders],
        **gang.pod_fields(job, attempt),
    }
    if pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in pull_secrets]
    if runs_our_image(job):  # a user's own may need root
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


def _container(
    job: DistributedTraining, attempt: int, index: int, image: str, folders: Sequence[Folder]
) -> dict[str, Any]:
    master, launcher = ports(job)
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": image,
        "command": list(job.spec.command or COMMAND),
        "env": build_environment(job, attempt, index),
        "ports": [{"name": "master", "containerPort": master}],
        "terminationMessagePolicy": "FallbackToLogsOnError",  # its last output ends up in the status
        "volumeMounts": [
            {"name": it.name, "mountPath": it.path, **({"readOnly": True} if it.read_only else {})} for it in folders
        ],
    }
    if not job.spec.command:
        container["ports"].append({"name": "launcher", "containerPort": launcher})
    if runs_our_image(job):
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
    if job.spec.workers.gpus_per_worker:
        container["resources"] = {"limits": {GPU: str(job.spec.workers.gpus_per_worker)}}
    return container


def _folders(job: DistributedTraining, attempt: int) -> list[Folder]:
    """What is mounted. A command gets the claims that it names: its image may have a /data of its own."""
    name, uid = job.metadata.name, job.metadata.uid
    size = SHM_PER_GPU_PROCESS_MIB * processes_per_worker(job.spec) if job.spec.workers.gpus_per_worker else SHM_MIB
    config = {"configMap": {"name": config_map_name(name, attempt)}}
    token = {"secret": {"secretName": secret_name(name, uid), "defaultMode": 0o440}}
    shm = {"emptyDir": {"medium": "Memory", "sizeLimit": f"{size}Mi"}}
    data, checkpoints = job.spec.data.claim, job.spec.checkpoint.claim
    folders = [Folder("shm", MOUNT_SHM, shm)]
    if not job.spec.command:
        folders.append(Folder("config", MOUNT_CONFIG, config, read_only=True))
        folders.append(Folder("token", MOUNT_TOKEN, token, read_only=True))
    if data or not job.spec.command:
        folders.append(Folder("data", MOUNT_DATA, _claim(data, read_only=True), read_only=bool(data)))
    if checkpoints or not job.spec.command:
        folders.append(Folder("checkpoints", MOUNT_CHECKPOINTS, _claim(checkpoints, read_only=False)))
    if runs_our_image(job):  # its root is read-only
        folders += [Folder("home", HOME, {"emptyDir": {}}), Folder("temporary", TEMPORARY, {"emptyDir": {}})]
    return folders


def _claim(name: str, *, read_only: bool) -> dict[str, Any]:
    """A claim, or a folder that ends with the pod."""
    if not name:
        return {"emptyDir": {}}
    source: dict[str, Any] = {"claimName": name}
    return {"persistentVolumeClaim": source | {"readOnly": True} if read_only else source}
