"""Conditions of the status: one of each type, times that change only when the answer does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from adts_api.contract import ConditionType, Reason
from adts_api.v1alpha1 import Condition, Status
from adts_operator.core.times import to_rfc3339


def with_condition(
    status: Status, kind: ConditionType, holds: bool, reason: Reason, message: str, *, now: float
) -> Status:
    """The status with one condition set, in place where it was there before."""
    answer: Literal["True", "False"] = "True" if holds else "False"
    old = find_condition(status.conditions, kind)
    new = Condition(
        type=kind.value,
        status=answer,
        reason=reason.value,
        message=message,
        last_transition_time=old.last_transition_time if old and old.status == answer else to_rfc3339(now),
        observed_generation=status.observed_generation,
    )
    conditions = [*status.conditions, new] if old is None else replace_condition(status.conditions, new)
    return status.model_copy(update={"conditions": conditions})


def replace_condition(conditions: Sequence[Condition], new: Condition) -> list[Condition]:
    """The conditions with the one of the same type replaced."""
    return [new if condition.type == new.type else condition for condition in conditions]


def find_condition(conditions: Sequence[Condition], kind: ConditionType) -> Condition | None:
    """The condition of a type, if it was ever set."""
    return next((condition for condition in conditions if condition.type == kind.value), None)


def holds(status: Status, kind: ConditionType) -> bool:
    """Whether a condition is set and true."""
    condition = find_condition(status.conditions, kind)
    return condition is not None and condition.status == "True"
