"""Which changes of a status are worth a write: a gang that comes together must not cost one per pod."""

from __future__ import annotations

from adts_api.contract import ConditionType
from adts_api.v1alpha1 import Status
from adts_operator.core.conditions import find_condition, replace_condition
from adts_operator.core.times import to_rfc3339, to_seconds

HOLD_SECONDS = 10.0
"""Between two writes of worker counts, or of why the workers do not run, where nothing else changed."""


def same(new: Status, old: Status) -> bool:
    """Whether nothing changed but the device seconds, which grow all the time and are written along with the rest."""
    old = old.model_copy(update={"gpu_seconds": new.gpu_seconds})
    return new.model_dump_json() == old.model_dump_json()  # as text, where a loss of NaN equals itself


def hold_back(new: Status, old: Status, now: float) -> tuple[Status, float | None]:
    """The status to write, or `old` and the time at which what changed is due."""
    if same(new, old):
        return old, None
    due = to_seconds(old.workers.at, 0.0) + HOLD_SECONDS
    if now < due and same(_without_details(new, old), old):
        return old, due
    return new.model_copy(update={"workers": new.workers.model_copy(update={"at": to_rfc3339(now)})}), None


def _without_details(new: Status, old: Status) -> Status:
    """`new` with what can wait as it was in `old`."""
    counts, before = new.workers, old.workers
    # That all pods were made, and that one is being taken away, decides what a missing pod means.
    if (counts.created, counts.disrupted > 0) != (before.created, before.disrupted > 0):
        return new
    details: dict[str, object] = {"workers": before}
    recorded = find_condition(old.conditions, ConditionType.RUNNING)
    if new.phase != "Running":
        details |= {"progress": old.progress, "communication": old.communication}
        if recorded is not None:
            details["conditions"] = replace_condition(new.conditions, recorded)
    return new.model_copy(update=details)
