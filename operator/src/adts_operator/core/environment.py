"""The contract's environment of the container `trainer`, right for any number of processes per worker."""

from __future__ import annotations

from typing import Any
from zlib import crc32

from adts_api.contract import (
    CONFIG_FILE,
    CONTRACT_VERSION,
    LAUNCHER_PORT,
    MASTER_PORT,
    MOUNT_CONFIG,
    MOUNT_TOKEN,
    TOKEN_FILE,
    Env,
)
from adts_api.topology import processes_per_worker, resolved_device, world_size
from adts_api.v1alpha1 import DistributedTraining
from adts_operator.core.failures import START_DEADLINE_SECONDS
from adts_operator.core.names import lead_host, pod_name

HOME = "/home/adts"
TEMPORARY = "/tmp"

HOST_PORTS = range(10_000, 30_000)
"""Below the node ports and the ephemeral ports of Linux."""

FLIGHT_RECORDER = {"TORCH_NCCL_TRACE_BUFFER_SIZE": "2000", "TORCH_NCCL_DUMP_ON_TIMEOUT": "1"}
"""NCCL keeps its last collectives and dumps them where one times out. These names work in every torch since 2.2."""


def uses_host_network(job: DistributedTraining) -> bool:
    """Whether the template puts the pods on their nodes' own network."""
    return bool((job.spec.workers.template.get("spec") or {}).get("hostNetwork"))


def runs_our_image(job: DistributedTraining) -> bool:
    """Whether the pods run the trainer image, or one made from it, and not an image that knows nothing of us."""
    return not (job.spec.command and job.spec.image)


def ports(job: DistributedTraining) -> tuple[int, int]:
    """(master, launcher) port. On the host network they derive from the UID, so that two jobs can share a node."""
    if not uses_host_network(job):
        return MASTER_PORT, LAUNCHER_PORT
    master = HOST_PORTS.start + 2 * (crc32(job.metadata.uid.encode()) % (len(HOST_PORTS) // 2))
    return master, master + 1


def build_environment(job: DistributedTraining, attempt: int, index: int) -> list[dict[str, Any]]:
    """The `env` list of one pod."""
    literal = {**_gang(job, attempt, index), **_ours(job, attempt, index)}
    if not job.spec.command:
        literal |= _trainer(job, attempt)
    if runs_our_image(job):
        literal |= {"HOME": HOME, "TMPDIR": TEMPORARY}
    if job.spec.workers.gpus_per_worker:
        literal |= FLIGHT_RECORDER
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in literal.items()]
    env.append({"name": Env.NODE_NAME, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}})
    return env


def _gang(job: DistributedTraining, attempt: int, index: int) -> dict[str, str]:
    """What torch and torchrun read. One process per pod can run without a launcher, so it gets its rank."""
    processes, nodes = processes_per_worker(job.spec), job.spec.workers.replicas
    master, port = lead_host(job.metadata.name, attempt), str(ports(job)[0])
    env = {
        Env.MASTER_ADDR: master,
        Env.MASTER_PORT: port,
        Env.WORLD_SIZE: str(world_size(job.spec)),
        Env.NNODES: str(nodes),
        Env.NODE_RANK: str(index),
        Env.LOCAL_WORLD_SIZE: str(processes),
        Env.PET_NNODES: str(nodes),
        Env.PET_NPROC_PER_NODE: str(processes),
        Env.PET_NODE_RANK: str(index),
        Env.PET_MASTER_ADDR: master,
        Env.PET_MASTER_PORT: port,
    }
    return env | {Env.RANK: str(index), Env.LOCAL_RANK: "0"} if processes == 1 else env


def _ours(job: DistributedTraining, attempt: int, index: int) -> dict[str, str]:
    metadata = job.metadata
    return {
        Env.CONTRACT: str(CONTRACT_VERSION),
        Env.JOB_NAME: metadata.name,
        Env.JOB_NAMESPACE: metadata.namespace,
        Env.JOB_UID: metadata.uid,
        Env.ATTEMPT: str(attempt),
        Env.POD_NAME: pod_name(metadata.name, index, attempt),
        Env.GRACE: str(job.spec.run_policy.grace_period_seconds),
    }


def _trainer(job: DistributedTraining, attempt: int) -> dict[str, str]:
    """What only our launcher reads."""
    port = ports(job)[1]
    return {
        Env.CONFIG: f"{MOUNT_CONFIG}/{CONFIG_FILE}",
        Env.TOKEN_FILE: f"{MOUNT_TOKEN}/{TOKEN_FILE}",
        Env.PORT: str(port),
        Env.LEAD: f"{lead_host(job.metadata.name, attempt)}:{port}",
        Env.DEVICE: resolved_device(job.spec),
        Env.START_TIMEOUT: f"{job.spec.run_policy.start_deadline_seconds or START_DEADLINE_SECONDS:g}",
    }
