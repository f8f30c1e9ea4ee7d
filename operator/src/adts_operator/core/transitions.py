"""Changes of phase: each takes the status and returns the next one with its events. All wording of events is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adts_api.contract import ConditionType, Reason
from adts_api.pod_status import PodStatus
from adts_api.v1alpha1 import Backoff, DistributedTraining, Phase, Restart, Status, WorkerCounts
from adts_operator.core.accounting import add_restart, forget_unsaved, keep_unsaved, trusted_lead
from adts_operator.core.conditions import holds, with_condition
from adts_operator.core.failures import LOST, START_DEADLINE, Failure
from adts_operator.core.observed import Gang
from adts_operator.core.policy import Verdict
from adts_operator.core.times import to_rfc3339

STARTING_UP = ("", "ContainerCreating", "PodInitializing")
"""Reasons of a pending pod that pass by themselves: not worth a status write."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One Kubernetes event; sent only after the status that it reports was written."""

    type: Literal["Normal", "Warning"] = "Normal"
    reason: Reason
    message: str


Change = tuple[Status, tuple[Event, ...]]


def refuse(status: Status, reason: Reason, message: str, *, now: float) -> Change:
    """`Valid=False`: nothing is made; judged again when the job or the obstacle changes. It is no failure."""
    refused = with_condition(status, ConditionType.VALID, False, reason, message, now=now)
    return refused, (Event(type="Warning", reason=reason, message=message),)


def begin(status: Status, *, image: str, now: float) -> Change:
    """The first attempt of a job, or the first after a suspension."""
    attempt, resumed = status.attempt + 1, status.phase == "Suspended"
    begun = {
        "phase": "Pending",
        "attempt": attempt,
        "image": image,
        "not_before": to_rfc3339(now),
        "started_at": to_rfc3339(now),
        "workers": WorkerCounts(desired=status.workers.desired),
    }
    status = _valid(status.model_copy(update=begun), now)
    if resumed:
        status = with_condition(status, ConditionType.SUSPENDED, False, Reason.RESUMED, "resumed", now=now)
    status = _not_running(status, Reason.WORKERS_STARTING, _start_message(status), now)
    reason = Reason.RESUMED if resumed else Reason.ATTEMPT_STARTED
    return status, (Event(reason=reason, message=f"attempt {attempt} begins"),)


def go_on(job: DistributedTraining, status: Status, gang: Gang, lead: PodStatus | None, *, now: float) -> Change:
    """Phase and conditions of an attempt under way; `status` is `job.status` brought up to date."""
    phase = _phase(status, gang, trusted_lead(job, gang.attempt, lead))
    status = _valid(status.model_copy(update={"phase": phase}), now)
    events: tuple[Event, ...] = ()
    rounds = status.rounds - job.status.rounds
    if rounds > 0:
        last = status.restarts[-1]
        message = f"{last.pod}: {last.reason}; its processes were restarted in place (round {status.rounds})"
        events += (Event(type="Warning", reason=Reason.ROUND_RESTARTED, message=message),)
    if phase != "Running":
        return _not_running(status, Reason.WORKERS_STARTING, _waiting_for(status, gang), now), events
    if not holds(status, ConditionType.RUNNING):
        message = f"all {gang.replicas} workers of attempt {gang.attempt} run"
        status = with_condition(status, ConditionType.RUNNING, True, Reason.ALL_WORKERS_RUNNING, message, now=now)
        events += (Event(reason=Reason.ALL_WORKERS_RUNNING, message=message),)
    return status, events


def end_attempt(status: Status, failure: Failure, verdict: Verdict, *, now: float) -> Change:
    """After a failure: the next attempt's number and time, or the end of the job."""
    if verdict.gives_up is not None:
        why = failure.message
        if verdict.gives_up is Reason.BACKOFF_LIMIT_EXCEEDED:
            why = f"{status.failures + 1} attempts failed, more than runPolicy.backoffLimit allows; the last: {why}"
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
    next_attempt = {
        "phase": "Restarting",
        "attempt": attempt,
        "failures": status.failures + verdict.counts,
        "backoff": Backoff(streak=verdict.streak, checkpoint_step=status.checkpoint.step),
        "not_before": to_rfc3339(now + verdict.delay_seconds),
        "workers": WorkerCounts(desired=status.workers.desired),
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
    return status, (Event(reason=Reason.SUSPENDED, message=f"suspended at step {status.progress.step}"),)


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


def _phase(status: Status, gang: Gang, lead: PodStatus | None) -> Phase:
    if gang.is_training:
        return "Running"
    if gang.failed:  # about to be judged
        return status.phase
    if lead is not None and lead.state == "restarting":
        return "Restarting"
    if not gang.waits_for_room:
        return "Starting"
    return "Restarting" if status.phase == "Restarting" else "Pending"


def _waiting_for(status: Status, gang: Gang) -> str:
    """What the gang waits for, in words that do not change with every pod that comes up."""
    for pod in gang.pending:
        if pod.reason not in STARTING_UP:
            return f"{pod.name} waits: {pod.reason}: {pod.message}".rstrip(": ")
    return _start_message(status)


def _start_message(status: Status) -> str:
    return f"the {status.workers.desired} workers of attempt {status.attempt} start"


def _reason(failure: Failure) -> Reason:
    if failure.is_disruption:
        return Reason.PREEMPTED
    special = {LOST: Reason.WORKER_LOST, START_DEADLINE: Reason.START_DEADLINE_EXCEEDED}
    return special.get(failure.reason, Reason.WORKER_FAILED)


def _valid(status: Status, now: float) -> Status:
    if holds(status, ConditionType.VALID):
        return status
    return with_condition(status, ConditionType.VALID, True, Reason.ACCEPTED, "the spec can be run", now=now)


def _not_running(status: Status, reason: Reason, message: str, now: float) -> Status:
    return with_condition(status, ConditionType.RUNNING, False, reason, message, now=now)
