"""The reconcile step as a pure function: what was seen and what time it is -> what to write, make and delete.

A new attempt takes two passes. The first writes its number, its reason and its earliest time into the status and does
nothing else; only a pass that has read this status back makes pods. The end of a job, suspending and resuming follow
the same rule. So a crash between any two writes is repaired by the next pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adts_api.contract import Reason
from adts_api.v1alpha1 import DistributedTraining, Status
from adts_operator.core import transitions
from adts_operator.core.accounting import take_stock
from adts_operator.core.build import Defaults, build_missing
from adts_operator.core.failures import DELETION_MARGIN_SECONDS, find_failure, is_overdue, start_deadline
from adts_operator.core.names import config_map_name
from adts_operator.core.observed import Gang, Observed, PodView
from adts_operator.core.policy import active_deadline, judge
from adts_operator.core.times import to_seconds
from adts_operator.core.transitions import Event

FAILED_GRACE_SECONDS = 3
"""For pods of a failed attempt: nothing they could still save would be consistent."""
CONFLICT_RETRY_SECONDS = 30.0

__all__ = ["Deletion", "Event", "Plan", "plan"]


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """One object of ours to delete."""

    kind: Literal["Pod", "ConfigMap"]
    name: str
    grace_seconds: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one pass does, in this order: write the status, send the events, delete, apply."""

    status: Status | None = None
    """The new status; None where nothing changed."""
    events: tuple[Event, ...] = ()
    delete: tuple[Deletion, ...] = ()
    apply: tuple[dict[str, Any], ...] = ()
    """Objects to create."""
    requeue_after: float | None = None
    """Seconds after which to look again even if nothing is seen to change; None waits for a change."""


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What every step of a pass reads."""

    job: DistributedTraining
    observed: Observed
    gang: Gang
    status: Status
    """Brought up to date with the observation; decisions are made on it."""
    now: float
    defaults: Defaults


def plan(job: DistributedTraining, observed: Observed, now: float, defaults: Defaults | None = None) -> Plan:
    """The plan of one pass over a valid job. `now` is unix seconds; `defaults` are the operator's own settings."""
    now = round(now, 3)  # the resolution of the times in a status
    status, gang = take_stock(job, observed, now)
    this = _Pass(job=job, observed=observed, gang=gang, status=status, now=now, defaults=defaults or Defaults())
    # Over already: nothing brings the job back, only pods are left to clean up.
    if job.status.phase in ("Succeeded", "Failed"):
        return _clean_up(this)
    # Somebody else's object has our name: hands off.
    if observed.foreign:
        return _refuse(this)
    # Every worker ended well, whatever else is asked for meanwhile.
    if gang.is_complete:
        return _write(this, *transitions.complete(status, now=now))
    if job.spec.run_policy.suspend:
        return _suspend(this)
    # No attempt under way: the first one, or the one after a suspension.
    if not status.not_before:
        return _begin(this)
    deadline = active_deadline(job, status)
    if deadline is not None and now >= deadline:
        return _write(this, *transitions.fail(status, Reason.DEADLINE_EXCEEDED, _overtime(job), now=now))
    # Something failed: another attempt or the end, once the cause is clear.
    failure = find_failure(job, status, gang, now)
    if failure is not None and now >= failure.settled_at:
        return _write(this, *transitions.end_attempt(status, failure, judge(job, status, failure), now=now))
    return _run(this, wake_at=failure.settled_at if failure else None)


def _refuse(this: _Pass) -> Plan:
    """Nothing is made or deleted; looked at again, because a foreign object's end is not among what we watch."""
    message = f"{', '.join(this.observed.foreign)} exists and belongs to somebody else; rename the job or remove it"
    status, events = transitions.refuse(this.status, Reason.NAME_CONFLICT, message, now=this.now)
    if _same(status, this.job.status):
        return Plan(requeue_after=CONFLICT_RETRY_SECONDS)
    return _write(this, status, events)


def _suspend(this: _Pass) -> Plan:
    """Without pods until it is resumed; the pods get their whole grace period to save."""
    if this.job.status.phase != "Suspended":
        return _write(this, *transitions.suspend(this.status, now=this.now))
    return _act(this, this.status, delete=_deletions(this.gang.alive, this.job.spec.run_policy.grace_period_seconds))


def _begin(this: _Pass) -> Plan:
    """A new attempt, once the pods of a suspended one have saved and gone: they would be fenced off otherwise."""
    waiting_for = [pod for pod in this.gang.alive if not is_overdue(pod, this.now)]
    if waiting_for:
        grace = this.job.spec.run_policy.grace_period_seconds
        return _act(this, this.status, delete=_deletions(waiting_for, grace))
    return _write(this, *transitions.begin(this.status, image=_image(this), now=this.now))


def _run(this: _Pass, wake_at: float | None) -> Plan:
    """Make what is missing, delete what is old, say how far it is."""
    status, events = transitions.go_on(this.job, this.status, this.gang, this.observed.lead, now=this.now)
    not_before = to_seconds(status.not_before, this.now)
    apply: list[dict[str, Any]] = []
    is_recorded = this.job.status.attempt == this.gang.attempt
    if is_recorded and this.now >= not_before and not status.workers.created:
        apply = build_missing(this.job, this.gang.attempt, this.gang.missing, this.observed.children, _image(this))
    stale = _deletions(this.gang.stale, FAILED_GRACE_SECONDS) + _old_config_maps(this)
    return _act(this, status, events=events, delete=stale, apply=apply, wake_at=(wake_at, not_before))


def _clean_up(this: _Pass) -> Plan:
    """After the end: the pods that cleanPodPolicy names; those of older attempts always go. The status stays."""
    policy = this.job.spec.run_policy.clean_pod_policy
    doomed = {"None": (), "All": this.gang.current, "Running": tuple(p for p in this.gang.current if p.is_alive)}
    return Plan(delete=_deletions(doomed[policy] + this.gang.stale, FAILED_GRACE_SECONDS))


def _write(this: _Pass, status: Status, events: tuple[Event, ...]) -> Plan:
    """First pass of a change: the status alone. The next pass acts on it."""
    if _same(status, this.job.status):
        return Plan()
    return Plan(status=status, events=events, requeue_after=0.0)


def _act(
    this: _Pass,
    status: Status,
    *,
    events: tuple[Event, ...] = (),
    delete: tuple[Deletion, ...] = (),
    apply: Iterable[dict[str, Any]] = (),
    wake_at: Sequence[float | None] = (),
) -> Plan:
    """A pass that makes and deletes, with the status where it changed and the time of the next deadline."""
    times = [*wake_at, active_deadline(this.job, status), *_deletion_deadlines(this.gang)]
    if this.gang.pending or this.gang.missing:
        times.append(start_deadline(this.job, status, this.now))
    future = [time - this.now for time in times if time is not None and time > this.now]
    return Plan(
        status=None if _same(status, this.job.status) else status,
        events=events,
        delete=delete,
        apply=tuple(apply),
        requeue_after=min(future, default=None),
    )


def _same(new: Status, old: Status) -> bool:
    """Whether nothing changed but the device seconds, which grow all the time and are written along with the rest."""
    old = old.model_copy(update={"gpu_seconds": new.gpu_seconds})
    return new.model_dump_json() == old.model_dump_json()  # as text, where a loss of NaN equals itself


def _deletions(pods: Iterable[PodView], grace_seconds: int) -> tuple[Deletion, ...]:
    return tuple(
        Deletion(kind="Pod", name=pod.name, grace_seconds=grace_seconds) for pod in pods if pod.gone_by is None
    )


def _old_config_maps(this: _Pass) -> tuple[Deletion, ...]:
    name = this.job.metadata.name
    old = (config_map_name(name, attempt) for attempt in range(1, this.gang.attempt))
    return tuple(Deletion(kind="ConfigMap", name=it) for it in old if f"ConfigMap/{it}" in this.observed.children)


def _deletion_deadlines(gang: Gang) -> list[float]:
    return [pod.gone_by + DELETION_MARGIN_SECONDS + 0.1 for pod in gang.alive if pod.gone_by is not None]


def _image(this: _Pass) -> str:
    """Resolved once: a new default of the operator does not reach a job that has begun."""
    return this.job.spec.image or this.status.image or this.defaults.image


def _overtime(job: DistributedTraining) -> str:
    return f"the job ran longer than runPolicy.activeDeadlineSeconds: {job.spec.run_policy.active_deadline_seconds}"
