"""Rules on the loop, the optimizer's schedule and the run policy."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adts_api.contract import MAX_NAME_LENGTH
from adts_api.errors import FieldError
from adts_api.v1alpha1 import DistributedTraining, Spec
from adts_api.wording import show

NAME_PATTERN = "[a-z]([-a-z0-9]*[a-z0-9])?"
"""A DNS label that begins with a letter, because the job's Service bears the same name (RFC 1035)."""


def name_errors(job: DistributedTraining) -> Iterator[FieldError]:
    """The name leaves room for `<job>-<index>-<attempt>` in a DNS label."""
    name, fix = job.metadata.name, f"use at most {MAX_NAME_LENGTH} lower-case letters, digits and -, a letter first"
    if len(name) > MAX_NAME_LENGTH:
        yield FieldError("metadata.name", f"{show(name)} has {len(name)} characters", fix)
    elif not re.fullmatch(NAME_PATTERN, name):
        yield FieldError("metadata.name", f"{show(name)} is no DNS label", fix)


def rule_schedule(spec: Spec) -> Iterator[FieldError]:
    """Warm-up and decay fit into the steps."""
    schedule, steps = spec.optimizer.schedule, spec.training.steps
    if not steps:
        return
    if schedule.warmup_steps > steps:
        problem = f"{schedule.warmup_steps} is more than training.steps {steps}"
        yield FieldError("spec.optimizer.schedule.warmupSteps", problem, f"use at most {steps}")
    elif schedule.type != "constant" and schedule.warmup_steps + schedule.decay_steps > steps:
        left = steps - schedule.warmup_steps
        problem = f"{schedule.decay_steps} is more than the {left} steps after the warm-up"
        fix = f"use at most {left}"
        yield FieldError("spec.optimizer.schedule.decaySteps", problem, fix)


def rule_divergence(spec: Spec) -> Iterator[FieldError]:
    """A roll back needs a checkpoint, and a spike is above the mean."""
    training = spec.training
    if training.on_divergence == "rollback" and not spec.checkpoint.every_steps:
        problem = "rollback needs checkpoints to go back to"
        yield FieldError("spec.training.onDivergence", problem, "set spec.checkpoint.everySteps, or use stop or skip")
    if 0 < training.loss_spike_factor <= 1:
        problem = f"{training.loss_spike_factor} calls a loss at the mean a spike"
        yield FieldError("spec.training.lossSpikeFactor", problem, "use a factor above 1, or 0 for none")


def rule_deadlines(spec: Spec) -> Iterator[FieldError]:
    """The start fits into the life of the job."""
    start, active = spec.run_policy.start_deadline_seconds, spec.run_policy.active_deadline_seconds
    if start and active and start > active:
        problem = f"{start} is more than activeDeadlineSeconds {active}"
        yield FieldError("spec.runPolicy.startDeadlineSeconds", problem, f"use at most {active}")
