"""What a pass deletes: pods by name and grace, and what is named `<job>-<attempt>` and belongs to an attempt of old."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from adts_api.v1alpha1 import DistributedTraining
from adts_operator.core.gang import APIS
from adts_operator.core.observed import Observed, PodView

FAILED_GRACE_SECONDS = 3
"""For pods of a failed attempt: nothing they could still save would be consistent."""


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """One object of ours to delete."""

    kind: Literal["Pod", "ConfigMap", "PodGroup"]
    name: str
    grace_seconds: int = 0
    group: str = ""
    """Path of a PodGroup's API, such as `/apis/scheduling.k8s.io/v1beta1`; empty for the core's own kinds."""


def of_pods(pods: Iterable[PodView], grace_seconds: int) -> tuple[Deletion, ...]:
    """Pods that nobody deletes yet."""
    return tuple(
        Deletion(kind="Pod", name=pod.name, grace_seconds=grace_seconds) for pod in pods if pod.gone_by is None
    )


def of_config_maps(job: DistributedTraining, observed: Observed, newest: int) -> tuple[Deletion, ...]:
    """The ConfigMaps of the attempts up to `newest`."""
    return tuple(Deletion(kind="ConfigMap", name=name) for name in _numbered(job, observed, "ConfigMap", newest))


def of_pod_groups(job: DistributedTraining, observed: Observed, newest: int) -> tuple[Deletion, ...]:
    """The PodGroups of the attempts up to `newest`: they may hold a place in a queue."""
    gang = job.spec.scheduling.gang
    if gang == "none":
        return ()
    names = _numbered(job, observed, "PodGroup", newest)
    return tuple(Deletion(kind="PodGroup", name=name, group=f"/apis/{APIS[gang]}") for name in names)


def of_old_attempts(
    job: DistributedTraining, observed: Observed, stale: Iterable[PodView], attempt: int
) -> tuple[Deletion, ...]:
    """What the attempts before this one left."""
    pods = of_pods(stale, FAILED_GRACE_SECONDS)
    return pods + of_config_maps(job, observed, attempt - 1) + of_pod_groups(job, observed, attempt - 1)


def _numbered(job: DistributedTraining, observed: Observed, kind: str, newest: int) -> list[str]:
    """Names of the children of a kind that are named `<job>-<attempt>`, up to an attempt."""
    prefix = f"{kind}/{job.metadata.name}-"
    numbers = [name.removeprefix(prefix) for name in sorted(observed.children) if name.startswith(prefix)]
    return [f"{job.metadata.name}-{it}" for it in numbers if it.isdecimal() and int(it) <= newest]
