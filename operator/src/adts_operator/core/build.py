"""The objects a job owns, as plain dicts: pure functions of the job and the number of the attempt."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any

import yaml

from adts_api.contract import (
    CONFIG_FILE,
    LABEL_ATTEMPT,
    LABEL_JOB,
    LABEL_JOB_UID,
    LABEL_MANAGED_BY,
    MANAGED_BY,
    TOKEN_FILE,
)
from adts_api.v1alpha1 import API_VERSION, KIND, DistributedTraining
from adts_operator.core.environment import ports
from adts_operator.core.gang import build_pod_group
from adts_operator.core.names import config_map_name, pod_group_name, pod_name, secret_name, service_name
from adts_operator.core.pod import build_pod

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml's where PyYAML was built with it: ten times as fast, and every attempt of every job needs it."""

TOKEN_PLACEHOLDER = "drawn-when-it-is-created"
"""The core knows no randomness: whoever creates the Secret draws the token."""

PASSING_METADATA = {"labels", "annotations", "resource_version", "creation_timestamp", "deletion_timestamp"}
"""What does not shape the training and changes while it runs."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What the operator's own settings add to a job."""

    image: str = "adts/trainer:0.1.0"
    """Trainer image of jobs that name none."""
    pull_secrets: tuple[str, ...] = ()
    """Secrets that pull that image."""


def build_missing(
    job: DistributedTraining, attempt: int, indices: Iterable[int], children: Set[str], defaults: Defaults
) -> list[dict[str, Any]]:
    """What an attempt still needs, in the order of creation. A Secret cannot be looked up, so it is always there."""
    around = [build_service(job)]
    if not job.spec.command:
        around.append(build_config_map(job, attempt))
    if job.spec.scheduling.gang != "none":
        name = pod_group_name(job.metadata.name, attempt)
        around.append(build_pod_group(job, attempt, _metadata(job, name)))
    missing = [it for it in around if f"{it['kind']}/{it['metadata']['name']}" not in children]
    if not job.spec.command:
        missing.append(build_secret(job))
    return [*missing, *(build_worker(job, attempt, index, defaults) for index in indices)]


def build_worker(job: DistributedTraining, attempt: int, index: int, defaults: Defaults) -> dict[str, Any]:
    """One pod, with the image of the job: once it has begun a new default of the operator does not reach it."""
    metadata = _metadata(job, pod_name(job.metadata.name, index, attempt))
    image = resolved_image(job, defaults)
    secrets = () if job.spec.image else defaults.pull_secrets
    return build_pod(job, attempt, index, metadata, image=image, pull_secrets=secrets)


def resolved_image(job: DistributedTraining, defaults: Defaults) -> str:
    """The image of the spec, else that of the first attempt, else the operator's."""
    return job.spec.image or job.status.image or defaults.image


def build_service(job: DistributedTraining) -> dict[str, Any]:
    """The headless Service of all attempts. Names resolve before pods are ready, because pods wait for each other."""
    master, launcher = ports(job)
    at_launcher = {"name": "launcher", "port": launcher}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job, service_name(job.metadata.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB_UID: job.metadata.uid},
            "ports": [{"name": "master", "port": master}, *([] if job.spec.command else [at_launcher])],
        },
    }


def build_config_map(job: DistributedTraining, attempt: int) -> dict[str, Any]:
    """The fully defaulted resource that the pods of one attempt read; immutable, a new attempt reads a new one."""
    metadata = _metadata(job, config_map_name(job.metadata.name, attempt))
    metadata["labels"][LABEL_ATTEMPT] = str(attempt)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "immutable": True,
        "data": {CONFIG_FILE: yaml.dump(resource(job), Dumper=DUMPER, sort_keys=False, allow_unicode=True)},
    }


def build_secret(job: DistributedTraining) -> dict[str, Any]:
    """The token that launchers show each other, still to be drawn."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(job, secret_name(job.metadata.name, job.metadata.uid)),
        "type": "Opaque",
        "stringData": {TOKEN_FILE: TOKEN_PLACEHOLDER},
    }


def resource(job: DistributedTraining) -> dict[str, Any]:
    """The resource with every default filled in, without its status and without what others note in its metadata."""
    without: dict[str, bool | set[str]] = {"status": True, "metadata": PASSING_METADATA}
    return job.model_dump(mode="json", by_alias=True, exclude=without, exclude_none=True)


def _metadata(job: DistributedTraining, name: str) -> dict[str, Any]:
    """Name, labels and owner of a child."""
    metadata = job.metadata
    return {
        "name": name,
        "namespace": metadata.namespace,
        "labels": {
            LABEL_MANAGED_BY: MANAGED_BY,
            LABEL_JOB: metadata.name,
            LABEL_JOB_UID: metadata.uid,
        },
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": metadata.name,
                "uid": metadata.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }
