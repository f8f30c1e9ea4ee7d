"""What to do when a step went wrong: a pure decision over what every rank knows alike."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto

SPIKE_WINDOW = 100
"""Steps whose mean loss a spike is measured against."""
PATIENCE = 10
"""Steps that may be left out in a row, or since one checkpoint, before the job ends whatever the policy."""


class Verdict(Enum):
    """What becomes of a step."""

    APPLY = auto()
    OVERFLOW = auto()
    """fp16 only: drop the step, halve the loss scale."""
    STOP = auto()
    SKIP = auto()
    """Drop the step; its samples count as seen."""
    ROLLBACK = auto()
    """Reload the last checkpoint and leave this step out on the way back."""


@dataclass(frozen=True)
class Policy:
    """`training.onDivergence` and what belongs to it."""

    action: str
    """stop, skip or rollback."""
    spike_factor: float = 0.0
    """A loss above this times the mean of `recent` diverges; 0 looks at finiteness only."""


@dataclass(frozen=True)
class Evidence:
    """A step before its update, the same on every rank."""

    step: int
    gradient_norm: float
    loss: float | None
    """Global loss per valid target; None where it was not reduced."""
    recent: Sequence[float]
    """Losses of the last steps that were applied."""
    skipped: Collection[int]
    """Steps left out so far."""
    checkpoint_step: int | None
    """Step of the last checkpoint; None if there is none."""
    scaler_absorbs: bool
    """Whether a smaller fp16 loss scale may cure an overflow."""


def problem(policy: Policy, evidence: Evidence) -> str:
    """What is wrong with a step, for people; empty if nothing is."""
    if not math.isfinite(evidence.gradient_norm):
        return f"the gradient norm is {evidence.gradient_norm}"
    if evidence.loss is None:
        return ""
    if not math.isfinite(evidence.loss):
        return f"the loss is {evidence.loss}"
    window = list(evidence.recent)[-SPIKE_WINDOW:]
    mean = sum(window) / len(window) if window else math.inf
    if policy.spike_factor and evidence.loss > policy.spike_factor * mean:
        return f"the loss {evidence.loss:.4g} is more than {policy.spike_factor:g} times the recent mean {mean:.4g}"
    return ""


def judge(policy: Policy, evidence: Evidence) -> Verdict:
    """The verdict on a step. Skip and rollback end in STOP once `PATIENCE` steps were left out without success."""
    if not problem(policy, evidence):
        return Verdict.APPLY
    if evidence.scaler_absorbs and not math.isfinite(evidence.gradient_norm):
        return Verdict.OVERFLOW
    if policy.action == "skip":
        return Verdict.SKIP if _in_a_row(evidence) < PATIENCE else Verdict.STOP
    if policy.action == "rollback" and evidence.checkpoint_step is not None:
        since = sum(step >= evidence.checkpoint_step for step in evidence.skipped)
        return Verdict.ROLLBACK if since < PATIENCE else Verdict.STOP
    return Verdict.STOP


def _in_a_row(evidence: Evidence) -> int:
    """Steps left out directly before this one."""
    step = evidence.step
    while step - 1 in evidence.skipped:
        step -= 1
    return evidence.step - step
