"""The fields of the spec as paths: what validation, the table of cells, the CRD and the docs walk over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any, get_args

from pydantic.fields import FieldInfo

from adts_api.training import ApiModel
from adts_api.v1alpha1 import Spec


@dataclass(frozen=True)
class Field:
    """One field below `spec`."""

    path: str
    """camelCase and relative to spec: `optimizer.schedule.warmupSteps`."""
    names: tuple[str, ...]
    """The attribute names that lead to it."""
    info: FieldInfo

    @property
    def default(self) -> Any:
        return self.info.get_default(call_default_factory=True)

    def value(self, spec: Spec) -> Any:
        """Its value in a spec, or in a guarded view of one."""
        return reduce(getattr, self.names, spec)


def alias(name: str, info: FieldInfo) -> str:
    """The camelCase name of an attribute."""
    return info.alias or name


@cache
def by_alias(model: type[ApiModel]) -> dict[str, FieldInfo]:
    """The fields of a model by their camelCase names."""
    return {alias(name, info): info for name, info in model.model_fields.items()}


def block_of(info: FieldInfo) -> type[ApiModel] | None:
    """The model of a field that is a block of further fields, else None."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, ApiModel) else None


def choices_of(info: FieldInfo) -> tuple[str, ...]:
    """The values of a field that takes one of a list of strings, without the empty one; () for any other field."""
    return tuple(choice for choice in get_args(info.annotation) if isinstance(choice, str) and choice)


def walk(model: type[ApiModel], path: str = "", names: tuple[str, ...] = ()) -> Iterator[Field]:
    """Every field below a model, blocks included, each block before its fields."""
    for name, info in model.model_fields.items():
        field = Field(f"{path}.{alias(name, info)}".lstrip("."), (*names, name), info)
        yield field
        if block := block_of(info):
            yield from walk(block, field.path, field.names)


@cache
def spec_leaves() -> dict[str, Field]:
    """The fields of the spec that hold values, by path."""
    return {field.path: field for field in walk(Spec) if block_of(field.info) is None}


def is_set(field: Field, spec: Spec) -> bool:
    """Whether a field differs from its default; the API server fills defaults in, so nothing else can be told."""
    return bool(field.value(spec) != field.default)
