"""Names of everything a job owns. An attempt's number is part of a pod's name: that is the fence against old pods."""

from __future__ import annotations

from adts_api.errors import ConfigError

LABEL_LENGTH = 63  # of a DNS label, and so of a hostname


def pod_name(job: str, index: int, attempt: int) -> str:
    """Name and hostname of one pod. Raises ConfigError where it is no DNS label any more."""
    name = f"{job}-{index}-{attempt}"
    if len(name) > LABEL_LENGTH:
        raise ConfigError(
            f"metadata.name: {job!r} makes the pod name {name!r} of {len(name)} characters, a hostname has at most "
            f"{LABEL_LENGTH}; use a shorter name"
        )
    return name


def lead_host(job: str, attempt: int) -> str:
    """DNS name of the pod of rank 0 inside the job's namespace."""
    return f"{pod_name(job, 0, attempt)}.{service_name(job)}"


def service_name(job: str) -> str:
    """The headless Service that gives the pods of every attempt their DNS names."""
    return job


def config_map_name(job: str, attempt: int) -> str:
    """The immutable ConfigMap of one attempt."""
    return f"{job}-{attempt}"


def pod_group_name(job: str, attempt: int) -> str:
    """The PodGroup of one attempt, and its name as a group of pods in a queue."""
    return f"{job}-{attempt}"


def secret_name(job: str, uid: str) -> str:
    """The Secret with the job's token; the UID in it makes a leftover of an older job of the same name harmless."""
    return f"{job}-{uid[:8]}"
