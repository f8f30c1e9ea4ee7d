"""The rule on a job with `command`: it runs without our trainer, so what only the trainer reads is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from adts_api.errors import FieldError
from adts_api.fields import is_set, spec_leaves
from adts_api.v1alpha1 import Spec
from adts_api.wording import show

TRAINER_BLOCKS = (
    "model",
    "data",
    "optimizer",
    "training",
    "checkpoint",
    "parallelism",
    "zero",
    "precision",
    "compression",
    "communication",
)
"""Blocks that shape a training of ours."""

TRAINER_FIELDS = ("runPolicy.hangTimeoutSeconds",)
"""Fields of other blocks that only our trainer can follow."""

MOUNTED = ("data.claim", "checkpoint.claim")
"""Fields of those blocks that a command can use as well: claims are mounted for it."""


def needs_trainer(path: str) -> bool:
    """Whether a field, by its path below spec, is refused beside `command`."""
    return path in TRAINER_FIELDS or (path.partition(".")[0] in TRAINER_BLOCKS and path not in MOUNTED)


def rule_command(spec: Spec) -> Iterator[FieldError]:
    """Nothing is asked of a trainer that is not there."""
    if not spec.command or spec.model.type:  # both: one of them has to go first
        return
    for path, field in spec_leaves().items():
        if needs_trainer(path) and is_set(field, spec):
            value = field.value(spec)
            shown = "" if isinstance(value, (dict, list)) else f"{show(value)} "
            problem = f"{shown}has no effect with spec.command, which runs without our trainer"
            yield FieldError(f"spec.{path}", problem, "remove it")


def without_command(rule: Callable[[Spec], Iterator[FieldError]]) -> Callable[[Spec], Iterator[FieldError]]:
    """A rule on what our trainer reads, silent where it does not run."""

    def judge(spec: Spec) -> Iterator[FieldError]:
        if not spec.command:
            yield from rule(spec)

    return judge
