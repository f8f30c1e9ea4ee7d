"""Structure of a manifest: field names, types and bounds, in our words.

Broken fields are cut out and replaced by their defaults, so that the rules still judge the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from adts_api.errors import FieldError
from adts_api.fields import block_of, by_alias, choices_of, walk
from adts_api.training import ApiModel
from adts_api.v1alpha1 import API_VERSION, KIND, DistributedTraining
from adts_api.wording import describe, one_of, show

Location = tuple[str | int, ...]

DEEPEST = 60
"""Levels of nesting that a manifest may have."""

REQUIRED: dict[Location, Any] = {
    ("apiVersion",): API_VERSION,
    ("kind",): KIND,
    ("metadata",): {"name": "unnamed"},
    ("metadata", "name"): "unnamed",
    ("spec",): {},
}
"""What stands in for a required field that is missing or broken."""

WANTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
"""What a field of the wrong type should hold, by pydantic's error type."""


def read_structure(manifest: Any) -> tuple[DistributedTraining, list[FieldError], set[str]]:
    """The resource with broken fields at their defaults, the errors, and the paths that are broken."""
    raw = without_nulls(manifest, DistributedTraining) if isinstance(manifest, dict) else {}
    raw.setdefault("spec", {})
    errors: list[FieldError] = []
    broken: set[str] = set()
    if not isinstance(manifest, dict):
        fix = "write a mapping with apiVersion, kind, metadata and spec"
        errors.append(FieldError("manifest", describe(manifest), fix))
        broken |= {dotted(location) for location in REQUIRED}
        raw = {location[0]: value for location, value in REQUIRED.items() if len(location) == 1}
    for location, error in foreign_values(raw):
        errors.append(error)
        broken.add(cut(raw, location))
    while True:
        try:
            return DistributedTraining.model_validate(raw, by_alias=True, by_name=False), errors, broken
        except ValidationError as failure:
            for details in failure.errors(include_url=False):
                location = details["loc"]
                error, suggested = translate(details)
                errors.append(error)
                broken |= {cut(raw, location), suggested} - {""}


def without_nulls(raw: dict[Any, Any], model: type[ApiModel]) -> dict[Any, Any]:
    """A copy in which a null of a known field is absent, which is how the API server reads it."""
    result = {}
    for key, value in raw.items():
        info = by_alias(model).get(key) if isinstance(key, str) else None
        block = block_of(info) if info else None
        if value is not None or info is None:
            result[key] = without_nulls(value, block) if block and isinstance(value, dict) else value
    return result


def foreign_values(raw: dict[Any, Any]) -> list[tuple[Location, FieldError]]:
    """Where the manifest holds what JSON, and so the API server, cannot."""
    judged: set[int] = set()  # YAML aliases make one object stand in many places, or inside itself

    def search(value: Any, location: Location) -> Iterator[tuple[Location, FieldError]]:
        if problem := foreign_value(value, len(location)):
            yield location, FieldError(dotted(location), *problem)
        elif isinstance(value, (dict, list)) and id(value) not in judged:
            judged.add(id(value))
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(value, dict) and not isinstance(key, str):
                    path = dotted(location) or "manifest"
                    yield (*location, key), FieldError(path, f"key {describe(key)}", "put it in quotes")
                else:
                    yield from search(item, (*location, key))

    return list(search(raw, ()))


def foreign_value(value: Any, depth: int) -> tuple[str, str] | None:
    """Problem and fix of a value that JSON cannot hold."""
    match value:
        case None | bool():
            return None
        case dict() | list():
            return (f"is nested deeper than {DEEPEST} levels", "write it flatter") if depth > DEEPEST else None
        case float():
            return None if math.isfinite(value) else (f"{value} is not finite", "write a finite number")
        case int():
            fits = -(2**63) <= value < 2**63
            return None if fits else (f"{show(value)} needs more than 64 bits", "write a smaller integer")
        case str():
            return None if is_unicode(value) else (f"{show(value)} is no valid Unicode", "write UTF-8 text")
        case _:
            return describe(value), "write a string, in quotes"


def is_unicode(text: str) -> bool:
    """Whether text can be written as UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def cut(raw: dict[Any, Any], location: Location) -> str:
    """Removes the field that a location points into, or puts a valid value in its place; its path."""
    container = raw
    model: type[ApiModel] = DistributedTraining
    for depth, key in enumerate(location):
        here = location[: depth + 1]
        info = by_alias(model).get(key) if isinstance(key, str) else None
        block = block_of(info) if info else None
        inner = container.get(key)
        if block is None or depth == len(location) - 1 or not isinstance(inner, dict):
            container.pop(key, None)
            if here in REQUIRED:
                container[key] = REQUIRED[here]
            return dotted(here)
        container, model = inner, block
    return ""


def dotted(location: Location) -> str:
    """A location as a path: `spec.command[0]`, with keys such as `["adts.dev/job"]` in quotes."""
    text = ""
    for part in location:
        is_plain = isinstance(part, str) and part.replace("-", "_").isidentifier()
        text += f".{part}" if is_plain else f'["{part}"]' if isinstance(part, str) else f"[{part}]"
    return text.removeprefix(".")


def translate(details: ErrorDetails) -> tuple[FieldError, str]:
    """One error of pydantic in our words, and the path the user probably meant, if another."""
    kind, location, value, context = details["type"], details["loc"], details["input"], details.get("ctx", {})
    path = dotted(location)
    if kind == "extra_forbidden":
        return unknown_field(location)
    if kind == "missing":
        return FieldError(path, "is missing", missing_fix(location)), ""
    if kind in WANTED:
        return FieldError(path, describe(value), f"write {WANTED[kind]}"), ""
    if kind == "literal_error":
        return literal_error(location, value), ""
    if kind == "string_pattern_mismatch":
        return FieldError(path, f"{show(value)} is no quantity", "write one such as 80Gi"), ""
    bounds = {
        "greater_than": ("gt", "is not above", "use a number above"),
        "greater_than_equal": ("ge", "is below", "use at least"),
        "less_than": ("lt", "is not below", "use a number below"),
        "less_than_equal": ("le", "is above", "use at most"),
    }
    if kind in bounds:
        key, problem, fix = bounds[kind]
        bound = f"{context[key]:g}" if isinstance(context[key], float) else str(context[key])
        return FieldError(path, f"{show(value)} {problem} {bound}", f"{fix} {bound}"), ""
    return FieldError(path, f"{describe(value)}: {details['msg']}", "see docs/manifest.md"), ""


def missing_fix(location: Location) -> str:
    """What to write for a required field."""
    is_constant = location in (("apiVersion",), ("kind",))
    return f"write {location[-1]}: {REQUIRED[location]}" if is_constant else "add it"


def model_at(location: Location) -> type[ApiModel] | None:
    """The block that a location leads to, if it is one."""
    model: type[ApiModel] | None = DistributedTraining
    for key in location:
        info = by_alias(model).get(str(key)) if model else None
        model = block_of(info) if info else None
    return model


def unknown_field(location: Location) -> tuple[FieldError, str]:
    """An unknown field, with the field of its block that is spelled most alike, or the one of that name elsewhere."""
    *parent, name = location
    model = model_at(tuple(parent))
    siblings = by_alias(model) if model else {}
    lowered = {sibling.lower(): sibling for sibling in siblings}
    close = get_close_matches(str(name).lower().replace("_", ""), lowered, n=1, cutoff=0.7)
    if close:
        sibling = lowered[close[0]]
        fix = f"did you mean `{sibling}`?"
        return FieldError(dotted(location), "unknown field", fix), dotted((*parent, sibling))
    namesakes = [field.path for field in walk(DistributedTraining) if field.path.split(".")[-1] == name]
    namesakes = [path for path in namesakes if path.startswith("spec.")]
    fix = f"did you mean {one_of(f'`{path}`' for path in namesakes)}?" if namesakes else "remove it"
    return FieldError(dotted(location), "unknown field", fix), ""


def literal_error(location: Location, value: Any) -> FieldError:
    """A value outside the list of a field."""
    model = model_at(location[:-1])
    info = by_alias(model)[str(location[-1])] if model else None
    path = dotted(location)
    choices = choices_of(info) if info else ()
    if not isinstance(value, str):
        return FieldError(path, describe(value), f"use {one_of(choices)}")
    lowered = {choice.lower(): choice for choice in choices}
    close = get_close_matches(value.lower(), lowered, n=1, cutoff=0.6)
    fix = f"did you mean {lowered[close[0]]}?" if close else f"use {one_of(choices)}"
    return FieldError(path, f"{show(value)} is unknown", fix)
