"""What was seen of a job's children, sorted once into named buckets; all decisions read the buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adts_api.contract import Reason
from adts_api.pod_status import PodStatus

TrainerPhase = Literal["Pending", "Running", "Succeeded", "Failed"]

UNSCHEDULABLE, GATED = NO_ROOM = ("Unschedulable", "SchedulingGated")
"""Reasons of a pending pod without a node, in the scheduler's words."""


@dataclass(frozen=True, kw_only=True)
class PodView:
    """One pod of ours, found by the job's UID."""

    name: str
    index: int
    attempt: int
    phase: TrainerPhase
    """Of the container `trainer`, whatever sidecars do; Failed as well where the pod failed before it ran."""
    exit_code: int | None = None
    """Of that container once it ended; 128 + n for signal n."""
    reason: str = ""
    """Why it waits or ended, in the cluster's word: Unschedulable, ImagePullBackOff, OOMKilled."""
    message: str = ""
    """While it waits, why; after it failed, its last kilobyte of output."""
    node: str = ""
    """Node it was given; empty while it is not scheduled."""
    gone_by: float | None = None
    """Unix seconds by which a pod that is being deleted must be gone; None where nobody deletes it."""
    disrupted: bool = False
    """Whether DisruptionTarget is set (evicted, preempted or drained), or Kueue's TerminationTarget."""
    unreachable: bool = False
    """Whether its node does not answer: nobody there stops it or tells how it ends."""
    started_at: float | None = None
    """Unix seconds since when it holds its devices."""
    finished_at: float | None = None
    """Unix seconds when the trainer ended."""

    @property
    def is_alive(self) -> bool:
        return self.phase in ("Pending", "Running")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What the cluster said to an object of the job, in a trial or when it was to be made."""

    reason: Reason
    message: str
    is_permanent: bool
    """True: the spec has to change. False: it may pass later, and is asked for again."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One look at the children of a job."""

    pods: tuple[PodView, ...] = ()
    lead: PodStatus | None = None
    """Newest answer of the lead pod."""
    lead_is_silent: bool = False
    """Whether a running lead pod has not answered for so long that people should know. Never treated as a hang."""
    children: frozenset[str] = frozenset()
    """Our own Services, ConfigMaps and PodGroups that exist, as `Kind/name`."""
    foreign: tuple[str, ...] = ()
    """Objects under our names that belong to somebody else, as `Kind/name`."""
    refusal: Refusal | None = None
    """What the cluster refused of this generation of the job; None where nothing was refused, or may be tried again."""


@dataclass(frozen=True, kw_only=True)
class Gang:
    """The pods of the current attempt by what they do, and everything else that is ours."""

    attempt: int
    """The larger of the status's attempt and of those on the pods."""
    replicas: int
    missing: tuple[int, ...]
    """Indices without a pod."""
    pending: tuple[PodView, ...]
    """The trainer has not started."""
    starting: tuple[PodView, ...]
    """The trainer runs, the job does not train yet."""
    running: tuple[PodView, ...]
    """The trainer runs and the job trains."""
    succeeded: tuple[PodView, ...]
    failed: tuple[PodView, ...]
    stale: tuple[PodView, ...]
    """Pods of older attempts, and pods the spec no longer asks for: never counted, always deleted."""

    @property
    def current(self) -> tuple[PodView, ...]:
        """All pods of the current attempt, by index."""
        pods = self.pending + self.starting + self.running + self.succeeded + self.failed
        return tuple(sorted(pods, key=lambda pod: pod.index))

    @property
    def alive(self) -> tuple[PodView, ...]:
        """Pods of any attempt whose trainer may still do something."""
        return tuple(pod for pod in self.current + self.stale if pod.is_alive)

    @property
    def is_complete(self) -> bool:
        """Whether every worker ended well."""
        return len(self.succeeded) == self.replicas

    @property
    def is_training(self) -> bool:
        """Whether every worker trains (those that already ended well included)."""
        return bool(self.running) and len(self.running) + len(self.succeeded) == self.replicas

    @property
    def waits_for_room(self) -> bool:
        """Whether a pod is not made yet, or the scheduler has said that it finds no place for one."""
        return bool(self.missing) or any(pod.reason in NO_ROOM for pod in self.pending)


def effective_attempt(recorded: int, pods: tuple[PodView, ...]) -> int:
    """The larger of the recorded attempt and the labels of our own pods: a lost status never reuses a number."""
    return max([recorded, *(pod.attempt for pod in pods)])


def sort_pods(pods: tuple[PodView, ...], attempt: int, replicas: int, *, trains: bool) -> Gang:
    """The gang of `attempt`. `trains` says whether pods whose trainer runs count as running or as starting."""
    current = [pod for pod in pods if pod.attempt == attempt and pod.index < replicas]
    current.sort(key=lambda pod: pod.index)
    present = {pod.index for pod in current}

    def having(*phases: TrainerPhase) -> tuple[PodView, ...]:
        return tuple(pod for pod in current if pod.phase in phases)

    return Gang(
        attempt=attempt,
        replicas=replicas,
        missing=tuple(index for index in range(replicas) if index not in present),
        pending=having("Pending"),
        starting=() if trains else having("Running"),
        running=having("Running") if trains else (),
        succeeded=having("Succeeded"),
        failed=having("Failed"),
        stale=tuple(sorted((pod for pod in pods if pod not in current), key=lambda pod: pod.name)),
    )
