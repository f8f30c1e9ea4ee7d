"""Rules on gradient compression: where there is traffic of ours to compress, and what a method needs."""

from __future__ import annotations

from collections.abc import Iterator

from adts_api.errors import FieldError
from adts_api.fields import is_set, spec_leaves
from adts_api.rules_layout import whole_topology
from adts_api.topology import resolved_engine
from adts_api.v1alpha1 import Spec


def rule_compression(spec: Spec) -> Iterator[FieldError]:
    """Gradients are compressed between the replicas of a model, by our own reducer."""
    method, path = spec.compression.method, "spec.compression.method"
    mesh, engine = whole_topology(spec), resolved_engine(spec)
    if method == "none" or mesh is None:
        return
    if engine == "deepspeed":
        problem = f"{method} with engine deepspeed, which sums gradients by itself"
        yield FieldError(path, problem, "use none, or spec.zero.engine native")
    elif mesh.dp == 1:
        yield FieldError(path, f"{method} has nothing to compress with one data rank", "use none, or more workers")
    elif mesh.dp_replicate == 1:
        problem = f"{method} has nothing to compress: zero.stage {spec.zero.stage} shards over all {mesh.dp} data ranks"
        fix = f"use none, or a spec.zero.shardDegree below {mesh.dp}"
        yield FieldError(path, problem, fix)


def rule_auto(spec: Spec) -> Iterator[FieldError]:
    """What changes compressors by itself must not lose what they leave out."""
    if spec.compression.method == "auto" and not spec.compression.error_feedback:
        problem = "false with method auto, which changes between methods and carries over what they leave out"
        yield FieldError("spec.compression.errorFeedback", problem, "use true, or name a method")


def rule_own_compressor(spec: Spec) -> Iterator[FieldError]:
    """A compressor of one's own has an import path."""
    if spec.compression.method == "custom" and not spec.compression.factory:
        yield FieldError("spec.compression.factory", "is empty with method custom", "set package.module:callable")


def rule_onebit_adam(spec: Spec) -> Iterator[FieldError]:
    """Momenta travel compressed after a warm-up, and are not clipped."""
    if spec.optimizer.name != "onebit-adam":
        return
    compression, steps = spec.compression, spec.training.steps
    if compression.method != "onebit":
        problem = f"{compression.method} with optimizer.name onebit-adam, whose momenta travel in one bit an entry"
        yield FieldError("spec.compression.method", problem, "use onebit, or spec.optimizer.name adamw")
    if not 0 < compression.warmup_steps < steps:
        problem = f"{compression.warmup_steps} leaves onebit-adam no steps of AdamW, or nothing else"
        yield FieldError("spec.compression.warmupSteps", problem, f"use about {max(1, steps // 5)}")
    if spec.optimizer.clip_norm:
        problem = f"{spec.optimizer.clip_norm:g} would clip the momentum of onebit-adam"
        yield FieldError("spec.optimizer.clipNorm", problem, "use 0")


def rule_reduce_dtype(spec: Spec) -> Iterator[FieldError]:
    """Gradients between shards travel in a format of their own; between copies they are compressed instead."""
    wire, path, engine, mesh = (
        spec.precision.reduce_dtype,
        "spec.precision.reduceDtype",
        resolved_engine(spec),
        whole_topology(spec),
    )
    if wire == "auto" or mesh is None:
        return
    if engine == "ddp":
        fix = f"use auto, or spec.compression.method {wire}" if wire != "fp32" else "use auto"
        yield FieldError(path, f"{wire} has no effect with ddp, which has no shards", fix)
    elif spec.precision.dtype == "fp64":
        yield FieldError(path, f"{wire} would round what spec.precision.dtype fp64 is to prove", "use auto")
    elif mesh.dp_shard == 1:
        yield FieldError(path, f"{wire} has no effect where one data rank has all of the state", "use auto")


def rule_overlap(spec: Spec) -> Iterator[FieldError]:
    """Only our own reducer can be told to wait."""
    mesh = whole_topology(spec)
    ours = spec.compression.method != "none" or (
        resolved_engine(spec) == "native" and mesh is not None and mesh.dp_replicate > 1
    )
    if not ours and is_set(spec_leaves()["communication.overlap"], spec):
        problem = "false has no effect where torch or DeepSpeed sums the gradients"
        yield FieldError("spec.communication.overlap", problem, "remove it")
