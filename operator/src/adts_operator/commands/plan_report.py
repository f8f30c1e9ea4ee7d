"""The outcome of a plan as a report for people and as JSON: pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from adts_api.planner import FIXED_BYTES, FRAGMENTATION, Candidate, Plan, layout_words
from adts_api.quantity import show_bytes
from adts_api.shapes import model_shape
from adts_api.topology import processes_per_worker, resolved_device, resolved_engine, topology
from adts_api.v1alpha1 import Spec
from adts_operator.commands.cells import NOTHING, count
from adts_operator.commands.tables import plain_table

COLUMNS = {
    "PARAMS": ("parameters",),
    "GRADS": ("gradients",),
    "OPTIM": ("optimizer",),
    "ACTIV": ("activations",),
    "OTHER": ("copies", "buffers", "working", "residuals"),
}
"""Columns of memory and the kinds they add up."""


def plan_report(spec: Spec, plan: Plan, rows: int | None) -> RenderableType:
    """Tables and sentences; at most so many rows of each table."""
    parts: list[RenderableType] = [Text(heading(spec, plan)), Text()]
    if plan.fitting:
        parts += [_table(plan.fitting[:rows], plan), *_more(plan.fitting, rows)]
    else:
        parts.append(Text("Nothing fits.", style="bold"))
    losers = list(why_not(plan, rows))
    if losers:
        parts += [Text(), Text("Why the others lose:", style="bold"), *map(Text, losers)]
    if plan.unknown:
        parts += [Text(), Text("Not known:", style="bold"), *(Text(f"  {it}") for it in plan.unknown)]
    return Group(*parts)


def heading(spec: Spec, plan: Plan) -> str:
    """Model, batch, devices, and what is set aside of their memory."""
    shape, workers = model_shape(spec), spec.workers.replicas
    elements = sum(it.elements() for it in shape.parameters.values())
    device = "GPU" if resolved_device(spec) == "cuda" else "process"
    lines = [
        f"{count(elements)} parameters, {spec.precision.dtype}, global batch {spec.training.global_batch_size}"
        + (f" x {shape.positions} tokens" if shape.positions > 1 else ""),
        f"{workers} worker{'' if workers == 1 else 's'} x {processes_per_worker(spec)} {device}"
        f"{'s' if processes_per_worker(spec) > 1 and device == 'GPU' else ''}",
    ]
    if plan.memory:
        aside = f"{show_bytes(FIXED_BYTES)} and {FRAGMENTATION:.0%} of the tensors set aside for CUDA and its allocator"
        lines.append(f"{show_bytes(plan.memory)} per GPU, {aside}")
    return "\n".join(lines)


def _table(candidates: list[Candidate], plan: Plan) -> RenderableType:
    has_seconds = candidates[0].cost.total_seconds is not None
    headers = ["ZERO", "ENGINE", "MICRO", "RECOMP", *(["STEP"] if has_seconds else []), *COLUMNS, "PEAK"]
    table = plain_table("LAYOUT", *headers, right=("MICRO", "STEP", *COLUMNS, "PEAK"))
    for it in candidates:
        samples = it.spec.training.global_batch_size // topology(it.spec).dp // it.spec.parallelism.microbatches
        cells = [
            str(topology(it.spec)),
            str(it.spec.zero.stage),
            resolved_engine(it.spec),
            f"{it.spec.parallelism.microbatches} x {samples}",
            "all" if it.spec.training.activation_checkpointing == "full" else NOTHING,
            *([seconds(it.cost.total_seconds)] if has_seconds else []),
            *(show_bytes(sum(it.peak.kinds[kind] for kind in kinds)) for kinds in COLUMNS.values()),
            show_bytes(it.peak.total),
        ]
        table.add_row(*cells)
    return table


def _more(candidates: list[Candidate], rows: int | None) -> Iterator[Text]:
    hidden = len(candidates) - (rows or len(candidates))
    if hidden > 0:
        yield Text(f"and {hidden} more that fit: --all shows them", style="dim")


def why_not(plan: Plan, rows: int | None) -> Iterator[str]:
    """A line for each layout that is behind the first, too large or forbidden."""
    for it in plan.fitting[1:rows]:
        assert plan.best is not None
        yield f"  {layout_words(it.spec)}: {reason(it, plan.best)}"
    for it in plan.too_large[:rows]:
        assert plan.memory is not None
        kind = max(it.peak.kinds, key=lambda name: it.peak.kinds[name])
        yield (
            f"  {layout_words(it.spec)}: lacks {show_bytes(it.reserved - plan.memory)} of {show_bytes(it.reserved)}, "
            f"most of it {kind} ({show_bytes(it.peak.kinds[kind])})"
        )
    hidden = len(plan.too_large) - (rows or len(plan.too_large))
    if hidden > 0:
        yield f"  and {hidden} more that are too large"
    for why, layouts in plan.refused.items():
        others = f" and {len(layouts) - 1} more" if len(layouts) > 1 else ""
        yield f"  {layouts[0].split(', ')[0]}, {layouts[0].split(', ')[1]}{others}: {why}"


def reason(it: Candidate, best: Candidate) -> str:
    """What a layout costs more than the best one."""
    own, other = it.cost, best.cost
    if own.seconds is not None and other.seconds is not None:
        more = {name: value - other.seconds.get(name, 0.0) for name, value in own.seconds.items()}
        cause = max(more, key=lambda name: more[name])
        if more[cause] > 1e-3 * sum(other.seconds.values()):
            return f"{seconds(sum(own.seconds.values()) - sum(other.seconds.values()))} more, most of it {cause}"
        return f"as fast, with {show_bytes(it.peak.total - best.peak.total)} more memory"
    if own.recomputed > other.recomputed:
        return f"recomputes {own.recomputed:.0%} of its work"
    if own.bubble > other.bubble + 5e-4:
        return f"waits {own.bubble:.1%} of the step for other stages"
    if own.work > 1.005 * other.work:
        return "its slowest stage has more layers"
    between, inside = (own.sent(leaves_worker=flag) - other.sent(leaves_worker=flag) for flag in (True, False))
    if between > 0:
        return f"sends {show_bytes(between)} a step more between workers"
    if inside > 0:
        return f"sends {show_bytes(inside)} a step more inside a worker"
    if it.spec.parallelism.microbatches > best.spec.parallelism.microbatches:
        return "needs more micro-batches"
    return f"as fast, with {show_bytes(it.peak.total - best.peak.total)} more memory"


def seconds(number: float | None) -> str:
    """`1.24 s`, `85 ms`."""
    if number is None:
        return NOTHING
    return f"{number:.2f} s" if number >= 1 else f"{number * 1e3:.3g} ms"


def plan_json(plan: Plan) -> dict[str, Any]:
    """Everything the search found, in bytes and seconds."""
    return {
        "memoryBytes": plan.memory,
        "fitting": [_entry(it, plan) for it in plan.fitting],
        "tooLarge": [_entry(it, plan) for it in plan.too_large],
        "refused": plan.refused,
        "unknown": plan.unknown,
    }


def _entry(it: Candidate, plan: Plan) -> dict[str, Any]:
    mesh, parallel = topology(it.spec), it.spec.parallelism
    return {
        "layout": {
            "data": mesh.dp,
            "tensor": mesh.tp,
            "pipeline": mesh.pp,
            "zeroStage": it.spec.zero.stage,
            "engine": resolved_engine(it.spec),
            "microbatches": parallel.microbatches,
            "activationCheckpointing": it.spec.training.activation_checkpointing,
        },
        "bytes": {**it.peak.kinds, "peak": it.peak.total, "reserved": it.reserved},
        "missingBytes": max(0, it.reserved - plan.memory) if plan.memory else None,
        "pipelineRank": it.peak.rank,
        "moment": it.peak.moment,
        "bubble": it.cost.bubble,
        "recomputed": it.cost.recomputed,
        "trafficBytes": {item.axis: round(item.bytes) for item in it.cost.traffic},
        "seconds": it.cost.seconds,
    }
