"""The reconcile step as a pure function: what was seen and what time it is -> what to write, make and delete.

A new attempt takes two passes. The first writes its number, its reason and its earliest time into the status and does
nothing else; only a pass that has read this status back makes pods. The end of a job, suspending and resuming follow
the same rule. So a crash between any two writes is repaired by the next pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adts_api.contract import Reason
from adts_api.v1alpha1 import DistributedTraining, Status
from adts_operator.core import deletions, transitions
from adts_operator.core.accounting import take_stock
from adts_operator.core.build import Defaults, build_missing, build_worker, resolved_image
from adts_operator.core.deletions import Deletion
from adts_operator.core.failures import DELETION_MARGIN_SECONDS, find_failure, is_overdue, start_deadline
from adts_operator.core.observed import Gang, Observed, Refusal
from adts_operator.core.policy import active_deadline, judge
from adts_operator.core.times import to_seconds
from adts_operator.core.transitions import Event
from adts_operator.core.writes import hold_back, same

CONFLICT_RETRY_SECONDS = 30.0

__all__ = ["Deletion", "Event", "Plan", "plan"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one pass does, in this order: try, write the status, send the events, delete, apply, remove the job."""

    status: Status | None = None
    """The new status; None where nothing changed."""
    events: tuple[Event, ...] = ()
    delete: tuple[Deletion, ...] = ()
    apply: tuple[dict[str, Any], ...] = ()
    """Objects to create."""
    trial: tuple[dict[str, Any], ...] = ()
    """Objects to create as a dry run first. Where one is refused nothing else happens, and `observed.refusal` says so
    to the next plan."""
    remove_job: bool = False
    """Whether the job itself is to be deleted: its time after the end is over."""
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
    # Every worker ended well, whatever else is asked for meanwhile.
    if gang.is_complete:
        return _write(this, *transitions.complete(status, now=now))
    # Somebody else's object has our name: hands off.
    if observed.foreign:
        return _refuse(this)
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
    # The cluster does not take the rest of the gang. A gang that is all there has nothing to do with it.
    if observed.refusal is not None and not status.workers.created:
        return _hold(this, observed.refusal)
    return _run(this, wake_at=failure.settled_at if failure else None)


def _refuse(this: _Pass) -> Plan:
    """Nothing is made or deleted; looked at again, because a foreign object's end is not among what we watch."""
    message = f"{', '.join(this.observed.foreign)} exists and belongs to somebody else; rename the job or remove it"
    status, events = transitions.refuse(this.status, Reason.NAME_CONFLICT, message, now=this.now)
    if same(status, this.job.status):
        return Plan(requeue_after=CONFLICT_RETRY_SECONDS)
    return _write(this, status, events)


def _suspend(this: _Pass) -> Plan:
    """Without pods until it is resumed; the pods get their whole grace period to save."""
    if this.job.status.phase != "Suspended":
        return _write(this, *transitions.suspend(this.status, now=this.now))
    grace = this.job.spec.run_policy.grace_period_seconds
    groups = () if this.gang.alive else deletions.of_pod_groups(this.job, this.observed, this.gang.attempt)
    return _act(this, this.status, delete=deletions.of_pods(this.gang.alive, grace) + groups)


def _begin(this: _Pass) -> Plan:
    """A new attempt, once the pods of a suspended one have saved and gone: they would be fenced off otherwise.

    Its first pod is tried out before; where it is refused the job waits, or is judged again when it was changed.
    """
    waiting_for = [pod for pod in this.gang.alive if not is_overdue(pod, this.now)]
    if waiting_for:
        grace = this.job.spec.run_policy.grace_period_seconds
        return _act(this, this.status, delete=deletions.of_pods(waiting_for, grace))
    refusal = this.observed.refusal
    if refusal is not None:
        return _act(this, *_told(this, refusal))
    image = resolved_image(this.job, this.defaults)
    step = _write(this, *transitions.begin(this.status, image=image, now=this.now))
    return replace(step, trial=(build_worker(this.job, this.status.attempt + 1, 0, this.defaults),))


def _hold(this: _Pass, refusal: Refusal) -> Plan:
    """Nothing more is made, and nothing of the attempt is left: all of the gang or none of it."""
    if this.gang.current:
        return _write(this, *transitions.let_go(this.status, refusal, now=this.now))
    status, events = _told(this, refusal)
    return _act(this, status, events, delete=_old(this))


def _told(this: _Pass, refusal: Refusal) -> tuple[Status, tuple[Event, ...]]:
    if refusal.is_permanent:
        return transitions.refuse(this.status, refusal.reason, refusal.message, now=this.now)
    return transitions.wait(this.status, refusal, now=this.now)


def _run(this: _Pass, wake_at: float | None) -> Plan:
    """Make what is missing, delete what is old, say how far it is."""
    status, events = transitions.go_on(this.job, this.status, this.gang, this.observed, now=this.now)
    not_before = to_seconds(status.not_before, this.now)
    apply: list[dict[str, Any]] = []
    is_recorded = this.job.status.attempt == this.gang.attempt
    if is_recorded and this.now >= not_before and not status.workers.created:
        missing, children = this.gang.missing, this.observed.children
        apply = build_missing(this.job, this.gang.attempt, missing, children, this.defaults)
    return _act(this, status, events, delete=_old(this), apply=apply, wake_at=(wake_at, not_before))


def _clean_up(this: _Pass) -> Plan:
    """After the end: the pods that cleanPodPolicy names; those of older attempts, and every PodGroup, always go.

    The status stays, until ttlSecondsAfterFinished takes the job away with all that is left.
    """
    policy = this.job.spec.run_policy
    left: float | None = None
    if policy.ttl_seconds_after_finished is not None:
        left = to_seconds(this.status.finished_at, this.now) + policy.ttl_seconds_after_finished - this.now
        if left <= 0:
            return Plan(remove_job=True)
    current = this.gang.current
    doomed = {"None": (), "All": current, "Running": tuple(pod for pod in current if pod.is_alive)}
    pods = deletions.of_pods(doomed[policy.clean_pod_policy], deletions.FAILED_GRACE_SECONDS)
    groups = deletions.of_pod_groups(this.job, this.observed, this.gang.attempt)
    return Plan(delete=tuple(dict.fromkeys(pods + _old(this) + groups)), requeue_after=left)


def _old(this: _Pass) -> tuple[Deletion, ...]:
    return deletions.of_old_attempts(this.job, this.observed, this.gang.stale, this.gang.attempt)


def _write(this: _Pass, status: Status, events: tuple[Event, ...]) -> Plan:
    """First pass of a change: the status alone. The next pass acts on it."""
    if same(status, this.job.status):
        return Plan()
    return Plan(status=status, events=events, requeue_after=0.0)


def _act(
    this: _Pass,
    status: Status,
    events: tuple[Event, ...] = (),
    *,
    delete: tuple[Deletion, ...] = (),
    apply: Iterable[dict[str, Any]] = (),
    wake_at: Sequence[float | None] = (),
) -> Plan:
    """A pass that makes and deletes, with the status where a change of it is worth a write, and the next deadline."""
    written, due = hold_back(status, this.job.status, this.now)
    times = [*wake_at, due, active_deadline(this.job, status), *_deletion_deadlines(this.gang)]
    if this.gang.pending or this.gang.missing:
        times.append(start_deadline(this.job, status, this.now))
    future = [time - this.now for time in times if time is not None and time > this.now]
    changed = written is not this.job.status
    return Plan(
        status=written if changed else None,
        events=events if changed else (),
        delete=delete,
        apply=tuple(apply),
        requeue_after=min(future, default=None),
    )


def _deletion_deadlines(gang: Gang) -> list[float]:
    return [pod.gone_by + DELETION_MARGIN_SECONDS + 0.1 for pod in gang.alive if pod.gone_by is not None]


def _overtime(job: DistributedTraining) -> str:
    return f"the job ran longer than runPolicy.activeDeadlineSeconds: {job.spec.run_policy.active_deadline_seconds}"
