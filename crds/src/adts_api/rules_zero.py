"""Rules on ZeRO by DeepSpeed: what it cannot do, and the nearest that can."""

from __future__ import annotations

from collections.abc import Iterator

from adts_api.errors import FieldError
from adts_api.rules_layout import whole_topology
from adts_api.topology import resolved_engine
from adts_api.v1alpha1 import Spec


def rule_offload(spec: Spec) -> Iterator[FieldError]:
    """Only DeepSpeed offloads, only a share of state that is sharded, and only to memory."""
    zero, offload = spec.zero, spec.zero.offload
    homes = {"optimizer": offload.optimizer, "parameters": offload.parameters}
    for name, home in homes.items():
        path = f"spec.zero.offload.{name}"
        if home == "nvme":
            problem = "nvme needs DeepSpeed's async_io, which is compiled against libaio and is not part of the image"
            yield FieldError(path, problem, "use cpu")
        elif home != "none" and zero.engine in ("ddp", "native"):
            problem = f"{home} is something {zero.engine} cannot do"
            yield FieldError(path, problem, "use none, or spec.zero.engine deepspeed")
        elif home != "none" and zero.stage == 0 and zero.engine == "auto":
            yield FieldError(
                "spec.zero.stage", "0 keeps no share of the state that could be offloaded", "use 1, 2 or 3"
            )
            return
        elif home != "none" and name == "parameters" and 0 < zero.stage < 3:
            problem = f"{home} needs parameters that are sharded, and zero.stage {zero.stage} keeps them whole"
            yield FieldError(path, problem, "use none, or spec.zero.stage 3")


def rule_deepspeed(spec: Spec) -> Iterator[FieldError]:
    """What other engines can and DeepSpeed cannot."""
    if resolved_engine(spec) != "deepspeed":
        return
    zero, parallelism = spec.zero, spec.parallelism
    if parallelism.pipeline > 1:
        yield from _pipeline(spec)
    mesh = whole_topology(spec)
    if mesh is not None and zero.stage and mesh.dp_replicate > 1:
        problem = f"{zero.shard_degree} is less than the {mesh.dp} data ranks, over all of which deepspeed shards"
        yield FieldError("spec.zero.shardDegree", problem, "remove it, or use spec.zero.engine native")
    if spec.training.compile and zero.stage == 3:
        problem = "true with deepspeed at zero.stage 3 compiles its hooks over and over, and gains nothing"
        yield FieldError("spec.training.compile", problem, "use false, or zero.stage 2")


def _pipeline(spec: Spec) -> Iterator[FieldError]:
    """DeepSpeed's pipeline has one schedule, and its engine asserts stage 0 or 1."""
    zero, parallelism = spec.zero, spec.parallelism
    is_offloaded = zero.offload.optimizer != "none" or zero.offload.parameters != "none"
    other = "spec.parallelism.pipeline 1" if is_offloaded else "spec.zero.engine native"
    if zero.stage > 1:
        problem = f"{zero.stage} shards gradients in each micro-batch, and deepspeed's pipeline reduces after the last"
        yield FieldError("spec.zero.stage", problem, f"use 1, or {other}")
    if parallelism.schedule != "1F1B":
        problem = f"{parallelism.schedule} is something deepspeed cannot do: its pipeline has a 1F1B of its own"
        yield FieldError("spec.parallelism.schedule", problem, f"use 1F1B, or {other}")
