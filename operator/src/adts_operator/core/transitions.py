"""Changes of phase: each takes the status and returns the next one with its events. All wording of events is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adts_api.contract import ConditionType, Reason
from adts_api.pod_status import PodStatus
from adts_api.v1alpha1 import Backoff, DistributedTraining, Phase, Restart, Status, WorkerCounts
from adts_operator.core.accounting import add_restart, forget_unsaved, keep_unsaved, trusted_lead
from adts_operator.core.conditions import find_condition, holds, with_condition
from adts_operator.core.failures import LOST, NODE_NOT_READY, START_DEADLINE, Failure
from adts_operator.core.observed import Gang, Observed, Refusal
from adts_operator.core.policy import Verdict
from adts_operator.core.times import to_rfc3339
from adts_operator.core.waiting import is_held_up, is_queued, why_not_running


@dataclass(frozen=True, kw_only=True)
class Event:
    """One Kubernetes event; sent only after the status that it reports was written."""

    type: Literal["Normal", "Warning"] = "Normal"
    reason: Reason
    message: str


Change = tuple[Status, tuple[Event, ...]]


def refuse(status: Status, reason: Reason, message: str, *, now: float) -> Change:
    """`Valid=False`: nothing is made; judged again when the job or the obstacle changes. It is no failure."""
    told = find_condition(status.conditions, ConditionType.VALID)
    status = with_condition(status, ConditionType.VALID, False, reason, message, now=now)
    if told is not None and (told.status, told.reason, told.message) == ("False", reason, message):
        return status, ()
    return status, (Event(type="Warning", reason=reason, message=message),)


def wait(status: Status, refusal: Refusal, *, now: float) -> Change:
    """Nothing is made until the cluster takes it. It is no failure either."""
    told = find_condition(status.conditions, ConditionType.RUNNING)
    status = _not_running(status.model_copy(update={"phase": "Pending"}), refusal.reason, refusal.message, now)
    if told is not None and told.reason == refusal.reason:
        return status, ()
    return status, (Event(type="Warning", reason=refusal.reason, message=refusal.message),)


def let_go(status: Status, refusal: Refusal, *, now: float) -> Change:
    """The rest of a gang was refused: what was made of it must not hold devices that others wait for.

    The pods go as those of an old attempt. A new number, because a name must never stand for two pods that ran.
    """
    status = status.model_copy(update={"attempt": status.attempt + 1, "workers": _no_workers(status, now)})
    if refusal.is_permanent:
        return refuse(status, refusal.reason, refusal.message, now=now)
    return wait(status, refusal, now=now)


def begin(status: Status, *, image: str, now: float) -> Change:
    """The first attempt of a job, or the first after a suspension."""
    attempt, resumed = status.attempt + 1, holds(status, ConditionType.SUSPENDED)
    begun = {
        "phase": "Pending",
        "attempt": attempt,
        "image": image,
        "not_before": to_rfc3339(now),
        "started_at": to_rfc3339(now),
        "workers": _no_workers(status, now),
    }
    status = _valid(status.model_copy(update=begun), now)
    if resumed:
        status = with_condition(status, ConditionType.SUSPENDED, False, Reason.RESUMED, "resumed", now=now)
    message = f"the {status.workers.desired} workers of attempt {attempt} start"
    status = _not_running(status, Reason.WORKERS_STARTING, message, now)
    reason = Reason.RESUMED if resumed else Reason.ATTEMPT_STARTED
    return status, (Event(reason=reason, message=f"attempt {attempt} begins"),)


def go_on(job: DistributedTraining, status: Status, gang: Gang, observed: Observed, *, now: float) -> Change:
    """Phase and conditions of an attempt under way; `status` is `job.status` brought up to date."""
    phase = _phase(job, status, gang, trusted_lead(job, gang.attempt, observed.lead))
    was_held_up = is_held_up(job, status)
    status = status.model_copy(update={"phase": phase})
    events: tuple[Event, ...] = ()
    refusal = observed.refusal
    if refusal is not None and refusal.is_permanent:  # what runs goes on
        status, events = refuse(status, refusal.reason, refusal.message, now=now)
    elif not gang.missing:  # what was refused is asked for again, and may be again
        status = _valid(status, now)
    rounds = status.rounds - job.status.rounds
    if rounds > 0:
        last = status.restarts[-1]
        message = f"{last.pod}: {last.reason}; its processes were restarted in place (round {status.rounds})"
        events += (Event(type="Warning", reason=Reason.ROUND_RESTARTED, message=message),)
    if phase != "Running":
        status, news = _say_why(job, status, gang, now)
        is_bounded = job.spec.run_policy.start_deadline_seconds is not None
        if was_held_up and not is_held_up(job, status) and not is_bounded:  # the time to start begins now
            status = status.model_copy(update={"not_before": to_rfc3339(now)})
        return status, events + news
    if not holds(status, ConditionType.RUNNING):
        message = f"all {gang.replicas} workers of attempt {gang.attempt} run"
        status = with_condition(status, ConditionType.RUNNING, True, Reason.ALL_WORKERS_RUNNING, message, now=now)
        events += (Event(reason=Reason.ALL_WORKERS_RUNNING, message=message),)
    return status, events


def end_attempt(status: Status, failure: Failure, verdict: Verdict, *, now: float) -> Change:
    """After a failure: the next attempt's number and time, or the end of the job."""
    if verdict.gives_up is not None:
        why = f"{verdict.explanation}: {failure.message}" if verdict.explanation else failure.message
        return fail(status, verdict.gives_up, why, exit_code=failure.exit_code, now=now)
    attempt, reason = status.attempt + 1, _reason(failure)
    restart = Restart(
        time=to_rfc3339(now),
        scope="attempt",
        pod=failure.pod,
        node=failure.node,
        exit_code=failure.exit_code,
        reason=failure.reason,
        message=failure.message,
    )
    memory_step = status.progress.step if failure.is_out_of_memory else status.backoff.out_of_memory_step
    backoff = Backoff(streak=verdict.streak, checkpoint_step=status.checkpoint.step, out_of_memory_step=memory_step)
    next_attempt = {
        "phase": "Restarting",
        "attempt": attempt,
        "failures": status.failures + verdict.counts,
        "backoff": backoff,
        "not_before": to_rfc3339(now + verdict.delay_seconds),
        "workers": _no_workers(status, now),
    }
    status = forget_unsaved(add_restart(status.model_copy(update=next_attempt), restart))
    status = _not_running(status, reason, failure.summary, now)
    when = f"in {verdict.delay_seconds:g} s" if verdict.delay_seconds else "now"
    return status, (
        Event(type="Warning", reason=reason, message=f"{failure.summary}; attempt {attempt} begins {when}"),
    )


def suspend(status: Status, *, now: float) -> Change:
    """No pods until resumed. The attempt is over: the next one gets a new number."""
    status = status.model_copy(update={"phase": "Suspended", "not_before": ""})
    message = "runPolicy.suspend is set"
    status = with_condition(status, ConditionType.SUSPENDED, True, Reason.SUSPENDED, message, now=now)
    status = _not_running(status, Reason.SUSPENDED, message, now)
    where = f" at step {status.progress.step}" if status.progress.step else ""
    return status, (Event(reason=Reason.SUSPENDED, message=f"suspended{where}"),)


def complete(status: Status, *, now: float) -> Change:
    """The end of a job whose workers all ended well: every step is done, whatever was heard last."""
    progress = status.progress.model_copy(update={"step": max(status.progress.steps, status.progress.step)})
    ended = {"phase": "Succeeded", "finished_at": to_rfc3339(now), "exit_code": 0, "progress": progress}
    status = keep_unsaved(status.model_copy(update=ended))
    message = f"all {status.workers.desired} workers finished"
    status = _not_running(status, Reason.TRAINING_FINISHED, message, now)
    status = with_condition(status, ConditionType.COMPLETE, True, Reason.TRAINING_FINISHED, message, now=now)
    return status, (Event(reason=Reason.TRAINING_FINISHED, message=message),)


def fail(status: Status, reason: Reason, message: str, *, exit_code: int | None = None, now: float) -> Change:
    """The end of a job that cannot go on."""
    ended = {"phase": "Failed", "finished_at": to_rfc3339(now), "exit_code": exit_code}
    status = forget_unsaved(status.model_copy(update=ended))
    status = _not_running(status, reason, "the job failed", now)
    status = with_condition(status, ConditionType.FAILED, True, reason, message, now=now)
    return status, (Event(type="Warning", reason=reason, message=message),)


def _phase(job: DistributedTraining, status: Status, gang: Gang, lead: PodStatus | None) -> Phase:
    if gang.is_training:
        return "Running"
    if gang.failed:  # about to be judged
        return status.phase
    if lead is not None and lead.state == "restarting":
        return "Restarting"
    if not gang.waits_for_room:
        return "Starting"
    if is_queued(job, gang):
        return "Queued"
    return "Restarting" if status.phase == "Restarting" else "Pending"


def _say_why(job: DistributedTraining, status: Status, gang: Gang, now: float) -> Change:
    """The condition Running of workers that do not run, with an event where it is for another reason than before."""
    told = find_condition(status.conditions, ConditionType.RUNNING)
    reason, message = why_not_running(job, status, gang)
    status = _not_running(status, reason, message, now)
    if reason is Reason.WORKERS_STARTING or (told is not None and told.reason == reason):
        return status, ()
    kind: Literal["Normal", "Warning"] = "Normal" if reason is Reason.QUEUED else "Warning"
    return status, (Event(type=kind, reason=reason, message=message),)


def _no_workers(status: Status, now: float) -> WorkerCounts:
    return WorkerCounts(desired=status.workers.desired, at=to_rfc3339(now))


def _reason(failure: Failure) -> Reason:
    if failure.reason in (LOST, NODE_NOT_READY):
        return Reason.WORKER_LOST
    if failure.is_disruption:
        return Reason.PREEMPTED
    return Reason.START_DEADLINE_EXCEEDED if failure.reason == START_DEADLINE else Reason.WORKER_FAILED


def _valid(status: Status, now: float) -> Status:
    if holds(status, ConditionType.VALID):
        return status
    return with_condition(status, ConditionType.VALID, True, Reason.ACCEPTED, "the spec can be run", now=now)


def _not_running(status: Status, reason: Reason, message: str, now: float) -> Status:
    return with_condition(status, ConditionType.RUNNING, False, reason, message, now=now)
