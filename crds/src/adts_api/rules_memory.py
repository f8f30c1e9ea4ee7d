"""The rule that refuses a job that cannot fit its GPUs, before a pod exists.

It reads a spec that every other rule accepts: run it after them. It is silent where `workers.gpuMemory` is not set, on
the CPU, and for a model whose size the spec does not tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adts_api.errors import FieldError
from adts_api.estimate_memory import Peak, peak
from adts_api.fields import spec_leaves
from adts_api.planner import FREE, MARGIN, OBEYED, Candidate, Rule, device_memory, layout_words, reserved_bytes, search
from adts_api.quantity import show_bytes
from adts_api.shapes import UnknownShapeError
from adts_api.v1alpha1 import Spec

PATH = "spec.workers.gpuMemory"


def rule_memory(spec: Spec, rules: Sequence[Rule] = OBEYED) -> Iterator[FieldError]:
    """A rank's predicted reserved memory, less the margin of the prediction, is no more than a GPU has."""
    memory = device_memory(spec)
    if memory is None:
        return
    try:
        if spec.parallelism.mode == "auto":
            plan = search(spec, rules=rules)
            if plan.fitting or not plan.too_large or is_within(plan.too_large[0].peak, memory):
                return
            smallest = plan.too_large[0]
            yield FieldError(PATH, problem(spec, smallest.peak, memory, layout_words(smallest.spec)), MORE)
            return
        own = peak(spec)
        if not is_within(own, memory):
            yield FieldError(PATH, problem(spec, own, memory, layout_words(spec)), fix(spec, rules))
    except UnknownShapeError:
        return


MORE = "no other layout of these GPUs fits: use more or larger GPUs, or a shorter data.sequenceLength"


def is_within(own: Peak, memory: int) -> bool:
    """Whether a peak fits a GPU, in doubt yes."""
    return reserved_bytes(own.total) * (1 - MARGIN) <= memory


def problem(spec: Spec, own: Peak, memory: int, layout: str) -> str:
    """`16Gi lacks 3.0 GiB of the 19.0 GiB that dp8, zero 0 needs (activations 9.2 GiB, ...)`."""
    needed = reserved_bytes(own.total)
    largest = sorted(own.kinds.items(), key=lambda it: -it[1])[:4]
    kinds = ", ".join(f"{kind} {show_bytes(count)}" for kind, count in largest if count)
    lacking, whole = show_bytes(needed - memory), show_bytes(needed)
    return f"{spec.workers.gpu_memory} lacks {lacking} of the {whole} that {layout} needs ({kinds})"


def fix(spec: Spec, rules: Sequence[Rule]) -> str:
    """The fitting layout with the fewest changes, the fastest of those."""
    defaults = {path: spec_leaves()[path].default for path in FREE}
    freed = spec.model_copy(
        update={
            "parallelism": spec.parallelism.model_copy(
                update={name: defaults[f"parallelism.{name}"] for name in ("tensor", "pipeline", "microbatches")}
            ),
            "zero": spec.zero.model_copy(update={"stage": 0}),
            "training": spec.training.model_copy(update={"activation_checkpointing": "none"}),
        }
    )
    found = search(freed, rules=rules).fitting
    if not found:
        return MORE
    nearest = min(found, key=lambda it: (len(changes(spec, it)), it.order))
    return f"use {' with '.join(changes(spec, nearest))}"


def changes(spec: Spec, other: Candidate) -> list[str]:
    """The fields in which a layout differs, as `zero.stage 3`."""
    fields = [spec_leaves()[path] for path in FREE]
    return [f"{it.path} {it.value(other.spec)}" for it in fields if it.value(other.spec) != it.value(spec)]
