"""What follows from a failure: another attempt, when, and at whose expense; or the end of the job."""

from __future__ import annotations

from dataclasses import dataclass

from adts_api.contract import COMMAND_EXIT_CODES, PERMANENT_EXIT_CODES, Reason
from adts_api.v1alpha1 import DistributedTraining, Status
from adts_operator.core.failures import Failure
from adts_operator.core.gang import uses_kueue
from adts_operator.core.times import to_seconds

FIRST_DELAY_SECONDS = 10.0
LONGEST_DELAY_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to do about a failure."""

    gives_up: Reason | None = None
    """Why the job fails; None starts another attempt."""
    explanation: str = ""
    """More than the failure itself says, for people."""
    counts: bool = True
    """Whether the failure spends one of `backoffLimit`."""
    streak: int = 0
    """Attempts in a row, this one included, that ended without a newer checkpoint."""
    delay_seconds: float = 0.0
    """Wait before the next attempt."""


def judge(job: DistributedTraining, status: Status, failure: Failure) -> Verdict:
    """The verdict on a failure of the current attempt.

    A new checkpoint resets the delay but not the count; a disruption is free of charge only after one, so that a
    job which is always preempted before it saves still comes to an end. In a queue it always is: who queues has
    agreed to be preempted.
    """
    if not failure.is_disruption and failure.exit_code in permanent_codes(job):
        return Verdict(gives_up=Reason.PERMANENT_FAILURE)
    step = status.progress.step
    if failure.is_out_of_memory and not job.spec.command and status.backoff.out_of_memory_step == step:
        explanation = f"out of memory twice at step {step}; use more memory, smaller microbatches or more workers"
        return Verdict(gives_up=Reason.PERMANENT_FAILURE, explanation=explanation)
    advanced = status.checkpoint.step > status.backoff.checkpoint_step
    counts = not (failure.is_disruption and (advanced or uses_kueue(job)))
    if status.failures + counts > job.spec.run_policy.backoff_limit:
        explanation = f"{status.failures + 1} attempts failed, more than runPolicy.backoffLimit allows; the last"
        return Verdict(gives_up=Reason.BACKOFF_LIMIT_EXCEEDED, explanation=explanation)
    streak = 1 if advanced else status.backoff.streak + 1
    return Verdict(counts=counts, streak=streak, delay_seconds=delay_seconds(streak))


def delay_seconds(streak: int) -> float:
    """Nothing for the first, then 10 s doubling to 5 min."""
    if streak <= 1:
        return 0.0
    return min(FIRST_DELAY_SECONDS * 2.0 ** min(streak - 2, 16), LONGEST_DELAY_SECONDS)


def permanent_codes(job: DistributedTraining) -> frozenset[int]:
    """Exit codes after which another attempt would end the same way."""
    ours = COMMAND_EXIT_CODES if job.spec.command else PERMANENT_EXIT_CODES
    return frozenset({*ours, *job.spec.run_policy.permanent_exit_codes})


def active_deadline(job: DistributedTraining, status: Status) -> float | None:
    """Unix seconds when the job has run too long; None where there is no limit or nothing has started."""
    seconds = job.spec.run_policy.active_deadline_seconds
    if seconds is None or not status.started_at:
        return None
    return to_seconds(status.started_at, 0.0) + seconds
