"""`adts plan` and `parallelism.mode: auto`: which layouts of a job fit its GPUs, in which order, and why others lose.

The search is exhaustive and pure: it varies the fields of FREE that the spec leaves at their default, obeys the same
rules as validation, and estimates memory and time of what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import product
from typing import Any

from adts_api import rules_layout, rules_zero
from adts_api.cells import rule_engine_cell, rule_not_yet
from adts_api.errors import FieldError
from adts_api.estimate_memory import Peak, peak
from adts_api.estimate_time import Cost, Hardware, cost
from adts_api.fields import is_set, spec_leaves
from adts_api.quantity import parse_bytes
from adts_api.shapes import UnknownShapeError, model_shape
from adts_api.stages import stacks
from adts_api.topology import divisors, processes_per_worker, resolved_device, topology, world_size
from adts_api.training import Parallelism
from adts_api.v1alpha1 import Spec

Rule = Callable[[Spec], Iterator[FieldError]]

FREE = (
    "parallelism.tensor",
    "parallelism.pipeline",
    "parallelism.microbatches",
    "zero.stage",
    "training.activationCheckpointing",
)
"""Fields that the search chooses where they are at their default."""

FIXED_BYTES = 3 * 2**29
"""Device memory outside the allocator: CUDA context, NCCL's buffers and cuBLAS's workspaces. An assumption: 1.5 GiB."""

FRAGMENTATION = 0.05
"""What the caching allocator reserves over the live tensors, as a fraction of them. An assumption."""

NETWORK_WEIGHT = 9
"""How many bytes inside a worker weigh one between workers where no speed is known: NVLink's 450 GB/s over a network of
400 Gbit/s."""

MARGIN = 0.10
"""Error that the closed form may have: a job is refused only if a tenth less would not fit either."""


def rule_plan_of_mlp(spec: Spec) -> Iterator[FieldError]:
    """What a rank needs for its part of an mlp is not known in closed form."""
    if spec.model.type == "mlp" and spec.parallelism.tensor > 1:
        problem = f"{spec.parallelism.tensor} is beyond the plan, which knows an mlp only whole"
        yield FieldError("spec.parallelism.tensor", problem, "use 1")


OBEYED: tuple[Rule, ...] = (
    rules_layout.rule_tensor,
    rules_layout.rule_tensor_sizes,
    rules_layout.rule_sequence_parallel,
    rules_layout.rule_pipeline,
    rules_layout.rule_stages,
    rules_layout.rule_shard_degree,
    rules_layout.rule_global_batch,
    rules_layout.rule_bucket,
    rule_engine_cell,
    rules_zero.rule_offload,
    rules_zero.rule_deepspeed,
    rule_plan_of_mlp,
    *(partial(rule_not_yet, spec_leaves()[path]) for path in FREE),
)
"""Rules that a layout must keep to be considered."""


@dataclass(frozen=True)
class Candidate:
    """One layout and what it costs."""

    spec: Spec
    peak: Peak
    cost: Cost

    @property
    def reserved(self) -> int:
        """Bytes of a device that the process takes."""
        return reserved_bytes(self.peak.total)

    @property
    def order(self) -> tuple[float, ...]:
        """Smaller is better. Without seconds: work with waiting, then traffic, micro-batches and memory, each only
        between equals in what stands before it."""
        if (seconds := self.cost.total_seconds) is not None:
            return (seconds, self.peak.total)
        work = float(f"{self.cost.work:.3g}")
        traffic = NETWORK_WEIGHT * self.cost.sent(leaves_worker=True) + self.cost.sent(leaves_worker=False)
        return (work, traffic, self.spec.parallelism.microbatches, self.peak.total)


@dataclass(frozen=True)
class Plan:
    """The outcome of a search."""

    fitting: list[Candidate]
    """Best first, the best micro-batches of each layout only."""
    too_large: list[Candidate]
    """Layouts that fit with no micro-batches, the smallest first."""
    refused: dict[str, list[str]]
    """Layouts that rules forbid, by reason."""
    memory: int | None
    """Bytes of one device; None is unknown."""
    unknown: list[str] = field(default_factory=list)
    """What is not known and would change the result."""

    @property
    def best(self) -> Candidate | None:
        return self.fitting[0] if self.fitting else None


def reserved_bytes(live: int) -> int:
    """Device memory taken for so many bytes of live tensors."""
    return int(live * (1 + FRAGMENTATION)) + FIXED_BYTES


def device_memory(spec: Spec) -> int | None:
    """Bytes of one GPU as the spec says; None where it says nothing or runs on the CPU."""
    if not spec.workers.gpu_memory or resolved_device(spec) == "cpu":
        return None
    return parse_bytes(spec.workers.gpu_memory)


def layout_words(spec: Spec) -> str:
    """`dp4 x tp2, zero 2, 8 micro-batches, recomputed`."""
    parts = spec.parallelism.microbatches
    words = [f"{topology(spec)}, zero {spec.zero.stage}", f"{parts} micro-batch{'' if parts == 1 else 'es'}"]
    return ", ".join([*words, "recomputed"] if spec.training.activation_checkpointing == "full" else words)


def with_layout(spec: Spec, **values: Any) -> Spec:
    """A copy with fields of FREE changed, by the last part of their path in snake case."""
    parallel = {key: value for key, value in values.items() if key in ("tensor", "pipeline", "microbatches")}
    if values.get("pipeline") == 1:
        parallel["schedule"] = Parallelism().schedule  # it would have no effect, and is refused then
    changes: dict[str, Any] = {"parallelism": spec.parallelism.model_copy(update={**parallel, "mode": "manual"})}
    if "stage" in values:
        changes["zero"] = spec.zero.model_copy(update={"stage": values["stage"]})
    if "activation_checkpointing" in values:
        update = {"activation_checkpointing": values["activation_checkpointing"]}
        changes["training"] = spec.training.model_copy(update=update)
    return spec.model_copy(update=changes)


def search(spec: Spec, hardware: Hardware | None = None, rules: Sequence[Rule] = OBEYED) -> Plan:
    """Every layout that differs from the spec in fields of FREE at their default. Raises UnknownShapeError."""
    shape = model_shape(spec)
    hardware, memory = hardware or Hardware(), device_memory(spec)
    fitting: list[Candidate] = []
    too_large: list[Candidate] = []
    refused: dict[str, list[str]] = {}
    for layout in layouts(spec):
        candidates = []
        errors: list[FieldError] = []
        for microbatches in microbatch_choices(layout):
            tried = with_layout(layout, microbatches=microbatches)
            wrong = [error for rule in rules for error in rule(tried)]
            if wrong:
                errors = errors or wrong
                continue
            every = stacks(tried, shape)
            candidates.append(Candidate(tried, peak(tried, every), cost(tried, hardware, every)))
        inside = [it for it in candidates if memory is None or it.reserved <= memory]
        if inside:
            fitting.append(min(inside, key=lambda it: it.order))
        elif candidates:
            too_large.append(min(candidates, key=lambda it: it.peak.total))
        elif errors:
            refused.setdefault(f"{errors[0].path} {errors[0].problem}", []).append(layout_words(layout))
    fitting.sort(key=lambda it: it.order)
    too_large.sort(key=lambda it: it.peak.total)
    return Plan(fitting, too_large, refused, memory, list(_unknown(spec, hardware, memory)))


def layouts(spec: Spec) -> Iterator[Spec]:
    """The spec with every value of the free fields but micro-batches. Sharding over one data rank is left out, and
    stage 2 under pipelines, which costs what stage 1 costs there."""
    leaves = spec_leaves()

    def choices(path: str, values: Sequence[Any]) -> Sequence[Any]:
        return [leaves[path].value(spec)] if is_set(leaves[path], spec) else values

    world = world_size(spec)
    tensors = choices("parallelism.tensor", divisors(processes_per_worker(spec)))
    pipelines = choices("parallelism.pipeline", [d for d in divisors(world) if d <= spec.model.layers])
    stages = choices("zero.stage", range(4))
    recomputing = choices("training.activationCheckpointing", ("none", "full"))
    for tensor, pipeline, stage, checkpointing in product(tensors, pipelines, stages, recomputing):
        changed = with_layout(
            spec, tensor=tensor, pipeline=pipeline, stage=stage, activation_checkpointing=checkpointing
        )
        try:
            mesh = topology(changed)
        except ValueError:
            continue
        is_useless = stage != spec.zero.stage and (mesh.dp == 1 or (stage == 2 and pipeline > 1))
        if not is_useless:
            yield changed


def microbatch_choices(spec: Spec) -> list[int]:
    """Numbers of micro-batches into which the share of a data rank divides; the spec's own where it is set."""
    if spec.parallelism.microbatches > 1:
        return [spec.parallelism.microbatches]
    share, rest = divmod(spec.training.global_batch_size, topology(spec).dp)
    return [1] if rest or not share else divisors(share)


def choose(spec: Spec, rules: Sequence[Rule] = OBEYED) -> Spec:
    """`mode: auto` resolved: the best layout that fits, or the smallest if none does, which `rule_memory` refuses. A
    spec of another mode, or of a model whose size is unknown, comes back as it is."""
    if spec.parallelism.mode != "auto":
        return spec
    return _best(spec.model_dump_json(by_alias=True), tuple(rules)) or spec


@lru_cache(maxsize=1000)
def _best(spec: str, rules: tuple[Rule, ...]) -> Spec | None:
    """Kept, because an operator reads each spec many times, and a search takes a second."""
    try:
        plan = search(Spec.model_validate_json(spec), rules=rules)
    except UnknownShapeError:
        return None
    ranked = plan.fitting or plan.too_large
    return ranked[0].spec if ranked else None


def _unknown(spec: Spec, hardware: Hardware, memory: int | None) -> Iterator[str]:
    if memory is None and resolved_device(spec) == "cuda":
        yield "the memory of a GPU (--gpu-memory, or spec.workers.gpuMemory): nothing is left out for its size"
    if not hardware.is_enough(spec):
        missing = ["the GPU (--gpu)"] if hardware.gpu is None else []
        if processes_per_worker(spec) > 1 and not hardware.worker_link:
            missing.append("the links inside a worker (--worker-link-gbit)")
        if spec.workers.replicas > 1 and not hardware.network_link:
            missing.append("the network between workers (--link-gbit)")
        yield (
            f"the speed of {', '.join(missing)}: no seconds, and the order is by recomputation and waiting, then by "
            "traffic, then by memory"
        )
