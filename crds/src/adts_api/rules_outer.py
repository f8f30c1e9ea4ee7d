"""Rules on replicas that train apart for some steps (`communication.syncEvery`): local SGD and DiLoCo."""

from __future__ import annotations

from collections.abc import Iterator

from adts_api.errors import FieldError
from adts_api.fields import is_set, spec_leaves
from adts_api.rules_layout import whole_topology
from adts_api.topology import resolved_engine
from adts_api.v1alpha1 import Spec
from adts_api.wording import show, use_multiple

_EVERY = "spec.communication.syncEvery"


def rule_replicas(spec: Spec) -> Iterator[FieldError]:
    """There are replicas, and we are who sums over them."""
    every, mesh = spec.communication.sync_every, whole_topology(spec)
    if every == 1 or mesh is None:
        return
    if resolved_engine(spec) == "deepspeed":
        problem = f"{every} with engine deepspeed, which sums gradients in every step"
        yield FieldError(_EVERY, problem, "use 1, or spec.zero.engine native")
    elif mesh.dp == 1:
        yield FieldError(_EVERY, f"{every} has no effect with one data rank", "use 1, or more workers")
    elif mesh.dp_replicate == 1:
        problem = f"{every} has no effect: zero.stage {spec.zero.stage} shards over all {mesh.dp} data ranks"
        yield FieldError(_EVERY, problem, f"use 1, or a spec.zero.shardDegree below {mesh.dp}")


def rule_rounds(spec: Spec) -> Iterator[FieldError]:
    """Replicas are equal, and can be saved or judged as one model, at the end of a round only."""
    every = spec.communication.sync_every
    times = {"checkpoint": spec.checkpoint.every_steps, "data.evaluation": spec.data.evaluation.every_steps}
    for block, steps in times.items():
        if steps % every:
            problem = f"{steps} is no multiple of communication.syncEvery {every}: replicas differ in between"
            yield FieldError(f"spec.{block}.everySteps", problem, use_multiple(steps, every))


def rule_apart(spec: Spec) -> Iterator[FieldError]:
    """What needs all gradients in every step does not go with steps apart."""
    every, training = spec.communication.sync_every, spec.training
    if every == 1:
        return
    beside = f"with communication.syncEvery {every}"
    if spec.compression.method == "auto":
        problem = f"auto {beside}: it measures what an exchange in every step costs"
        yield FieldError("spec.compression.method", problem, "name a method")
    if spec.optimizer.name == "onebit-adam":
        problem = f"onebit-adam {beside}: it exchanges in every step"
        yield FieldError("spec.optimizer.name", problem, "use adamw")
    if training.on_divergence != "stop":
        problem = f"{training.on_divergence} {beside}: a replica that diverges does so alone"
        yield FieldError("spec.training.onDivergence", problem, "use stop")
    if training.loss_spike_factor:
        problem = f"{training.loss_spike_factor:g} {beside}: the loss of all replicas is not known in every step"
        yield FieldError("spec.training.lossSpikeFactor", problem, "use 0")
    if is_set(spec_leaves()["communication.overlap"], spec):
        problem = f"false has no effect {beside}: nothing is exchanged beside a backward pass"
        yield FieldError("spec.communication.overlap", problem, "remove it")


def rule_outer_step(spec: Spec) -> Iterator[FieldError]:
    """Where every step is common there is no outer one."""
    if spec.communication.sync_every > 1:
        return
    for name in ("outerLearningRate", "outerMomentum"):
        field = spec_leaves()[f"communication.{name}"]
        if is_set(field, spec):
            problem = f"{show(field.value(spec))} has no effect with communication.syncEvery 1"
            yield FieldError(f"spec.{field.path}", problem, f"remove it, or set {_EVERY}")
