"""Which pod's failure ended the attempt. DisruptionTarget comes before the exit code, the exit code before `Lost`."""

from __future__ import annotations

from dataclasses import dataclass

from adts_api.contract import COMMAND_EXIT_CODES, ConditionType, ExitCode, exit_reason
from adts_api.v1alpha1 import DistributedTraining, Status
from adts_operator.core.conditions import find_condition
from adts_operator.core.names import pod_name
from adts_operator.core.observed import Gang, PodView
from adts_operator.core.times import to_seconds
from adts_operator.core.waiting import is_held_up

START_DEADLINE_SECONDS = 600.0  # where the spec names none
SETTLE_SECONDS = 3.0  # a follower that only lost its peer often ends before the pod that caused it
DELETION_MARGIN_SECONDS = 5.0  # beyond its grace period a deleted pod is taken as lost: its node no longer answers
MESSAGE_LENGTH = 1024
SIGNALS = 128  # an exit code above it is a signal's

LOST = "Lost"
DISRUPTED = "Disrupted"
NODE_NOT_READY = "NodeNotReady"
START_DEADLINE = "StartDeadlineExceeded"
OUT_OF_MEMORY = exit_reason(ExitCode.OUT_OF_MEMORY)
CONSEQUENCES = (ExitCode.PREEMPTED, ExitCode.START_TIMEOUT, ExitCode.LOST_PEER)
"""Codes of our launcher that say little about the cause, the least telling last."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an attempt cannot go on."""

    pod: str
    node: str = ""
    exit_code: int | None = None
    reason: str
    """One word, as in `Restart.reason`."""
    output: str = ""
    """Last output of the pod, or why it never ran."""
    is_disruption: bool = False
    """The cluster took the pod away, or it was told to stop: not the job's fault."""
    settled_at: float = 0.0
    """Unix seconds until which a more telling failure of another pod may still turn up."""

    @property
    def is_out_of_memory(self) -> bool:
        return self.reason == OUT_OF_MEMORY

    @property
    def summary(self) -> str:
        """One line for people: pod, node, exit code, reason."""
        where = f"{self.pod} on {self.node}" if self.node else self.pod
        if self.exit_code is None:
            return f"{where}: {self.reason}"
        return f"{where} exited with code {self.exit_code} ({self.reason})"

    @property
    def message(self) -> str:
        """The summary and the last kilobyte of output."""
        return f"{self.summary}\n{self.output[-MESSAGE_LENGTH:]}".strip()


def find_failure(job: DistributedTraining, status: Status, gang: Gang, now: float) -> Failure | None:
    """The most telling failure of the current attempt, the earliest of equals; None while nothing failed.

    A failure that only echoes another one is not settled for a while, as long as other pods still live.
    """
    is_ours = not job.spec.command  # somebody else's exit codes mean what they want
    ended_first = sorted(gang.failed, key=lambda pod: (pod.finished_at or 0.0, pod.index))
    failures = [_of_failed(pod, is_ours) for pod in ended_first]
    failures += [_of_overdue(pod) for pod in gang.current if is_overdue(pod, now)]
    if status.workers.created:
        names = [pod_name(job.metadata.name, index, gang.attempt) for index in gang.missing]
        failures += [_lost(name, "", status.workers.disrupted > 0) for name in names]
    if not failures:
        return _start_deadline(job, status, gang, now)
    cause = min(failures, key=_weight if is_ours else _weight_of_command)  # stable: the earliest of equals
    if not is_ours or cause.exit_code not in CONSEQUENCES or not any(pod.is_alive for pod in gang.current):
        return cause
    ended = min((pod.finished_at or now for pod in gang.failed), default=now)
    patience = SETTLE_SECONDS
    if cause.exit_code == ExitCode.PREEMPTED:  # the others agree on a step and save it
        patience = float(job.spec.run_policy.grace_period_seconds)
    return Failure(**{**vars(cause), "settled_at": ended + patience})


def start_deadline(job: DistributedTraining, status: Status, now: float) -> float | None:
    """Unix seconds by which every worker of the current attempt must run; None where it holds nothing and may wait."""
    seconds = job.spec.run_policy.start_deadline_seconds
    if seconds is None and is_held_up(job, status):
        return None
    return to_seconds(status.not_before, now) + (seconds or START_DEADLINE_SECONDS)


def is_overdue(pod: PodView, now: float) -> bool:
    """Whether nobody waits for a deleted pod: it never ran, its node does not answer, or its grace period is over.

    It may still run on its node. The attempt in its name and in the checkpoint's lock keeps it apart.
    """
    if not pod.is_alive or pod.gone_by is None:
        return False
    return pod.phase == "Pending" or pod.unreachable or now > pod.gone_by + DELETION_MARGIN_SECONDS


def _start_deadline(job: DistributedTraining, status: Status, gang: Gang, now: float) -> Failure | None:
    """The failure of a gang that does not come together: its pods hold devices that others may wait for."""
    deadline = start_deadline(job, status, now)
    if not (gang.pending or gang.missing) or deadline is None or now < deadline:
        return None
    if gang.pending:
        pod = gang.pending[0]
        waiting = f"{pod.reason}: {pod.message}".strip(": ")
        return Failure(pod=pod.name, node=pod.node, reason=START_DEADLINE, output=waiting)
    recorded = find_condition(status.conditions, ConditionType.RUNNING)
    name = pod_name(job.metadata.name, gang.missing[0], gang.attempt)
    return Failure(pod=name, reason=START_DEADLINE, output=recorded.message if recorded else "")


def _of_failed(pod: PodView, is_ours: bool) -> Failure:
    reason = pod.reason or LOST
    if pod.reason == "OOMKilled":
        reason = OUT_OF_MEMORY
    elif pod.exit_code is not None:
        is_known = is_ours or pod.exit_code in COMMAND_EXIT_CODES or pod.exit_code > SIGNALS
        reason = exit_reason(pod.exit_code) if is_known else f"Exit{pod.exit_code}"
    return Failure(
        pod=pod.name,
        node=pod.node,
        exit_code=pod.exit_code,
        reason=DISRUPTED if pod.disrupted else reason,
        output=pod.message,
        is_disruption=pod.disrupted or (is_ours and pod.exit_code == ExitCode.PREEMPTED),
    )


def _of_overdue(pod: PodView) -> Failure:
    if not pod.unreachable:
        return _lost(pod.name, pod.node, pod.disrupted)
    output = f"{pod.node} does not answer"
    return Failure(pod=pod.name, node=pod.node, reason=NODE_NOT_READY, output=output, is_disruption=pod.disrupted)


def _lost(pod: str, node: str, disrupted: bool) -> Failure:
    return Failure(pod=pod, node=node, reason=DISRUPTED if disrupted else LOST, is_disruption=disrupted)


def _weight(failure: Failure) -> int:
    """Small for a failure that tells much."""
    if failure.reason in (DISRUPTED, NODE_NOT_READY):
        return 0
    if failure.exit_code in CONSEQUENCES:
        return (2, 4, 5)[CONSEQUENCES.index(ExitCode(failure.exit_code))]
    return 3 if failure.exit_code is None else 1  # a pod that is gone may have saved like those that say so


def _weight_of_command(failure: Failure) -> int:
    """As `_weight`, where an exit code tells nothing."""
    return 0 if failure.reason in (DISRUPTED, NODE_NOT_READY) else 2 if failure.exit_code is None else 1
