"""Rules on ZeRO by DeepSpeed: what it cannot do, and the nearest that can."""

from __future__ import annotations

from collections.abc import Iterator

from adts_api.errors import FieldError
from adts_api.rules_layout import whole_topology
from adts_api.topology import resolved_engine
from adts_api.v1alpha1 import Spec
from adts_api.wording import one_of


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
        problem = f"deepspeed with pipeline {parallelism.pipeline} is not supported yet"
        yield FieldError("spec.zero.engine", problem, "use native")
    mesh = whole_topology(spec)
    if mesh is not None and zero.stage and mesh.dp_replicate > 1:
        problem = f"{zero.shard_degree} is less than the {mesh.dp} data ranks, over all of which deepspeed shards"
        yield FieldError("spec.zero.shardDegree", problem, "remove it, or use spec.zero.engine native")
    if spec.training.compile and zero.stage == 3:
        problem = "true with deepspeed at zero.stage 3 compiles its hooks over and over, and gains nothing"
        yield FieldError("spec.training.compile", problem, "use false, or zero.stage 2")
    adds_in_half = zero.stage == 1 and spec.precision.dtype == "bf16" and zero.offload.optimizer == "none"
    if adds_in_half and parallelism.microbatches > 1:
        problem = f"1 with deepspeed and bf16 adds the {parallelism.microbatches} micro-batches up in bf16"
        yield FieldError("spec.zero.stage", problem, f"use {one_of(['2', '3'])}")
