"""Structural OpenAPI v3 schemas, as a CustomResourceDefinition wants them, from pydantic models. Pure data."""

from __future__ import annotations

from typing import Any

from adts_api.training import ApiModel
from adts_api.v1alpha1 import Spec

SPEC_RULES: tuple[dict[str, str], ...] = (
    {
        "rule": "(self.model.type != '') != (size(self.command) > 0)",
        "message": "set exactly one of spec.model.type and spec.command",
    },
    {
        "rule": "self.model.type == '' || self.data.type != ''",
        "message": "a model needs spec.data.type; write tokens, text, jsonl, tensors or synthetic",
        "fieldPath": ".data.type",
    },
    {
        "rule": "self.model.type == '' || self.training.steps > 0",
        "message": "a model needs spec.training.steps; write the number of optimizer steps",
        "fieldPath": ".training.steps",
    },
)
"""What the spec as a whole must have. Defaults stand before rules are judged, so every field is there."""

KEPT = ("pattern", "minimum", "maximum")
"""Keywords of JSON Schema that mean the same in OpenAPI v3."""


def spec_schema() -> dict[str, Any]:
    """The schema of `.spec`, with the rules across fields and every default below it.

    It has no default itself: the API server judges a default by the rules, and an empty spec does not pass them.
    """
    schema = structural_schema(Spec)
    add_defaults(schema, Spec().model_dump(by_alias=True, mode="json"))
    return schema | {"x-kubernetes-validations": list(SPEC_RULES)}


def structural_schema(model: type[ApiModel]) -> dict[str, Any]:
    """The structural schema of a model, without defaults."""
    source = model.model_json_schema(by_alias=True)
    return structural(source, source.get("$defs", {}))


def structural(source: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """One JSON Schema of pydantic's, with references resolved and in the dialect of OpenAPI v3."""
    if "$ref" in source:
        target = definitions[source["$ref"].rpartition("/")[2]]
        return structural(target | {key: value for key, value in source.items() if key != "$ref"}, definitions)
    if "anyOf" in source:  # Optional[...] is the only union of the models
        (inner,) = (choice for choice in source["anyOf"] if choice != {"type": "null"})
        return structural(inner | description_of(source), definitions) | {"nullable": True}
    schema: dict[str, Any] = {**description_of(source), "type": source["type"]}
    match source["type"]:
        case "integer":
            schema["format"] = "int64"
        case "number":
            schema["format"] = "double"
        case "array":
            schema |= {"items": structural(source["items"], definitions)} | list_keys(source)
        case "object":
            schema |= object_schema(source, definitions)
    if "enum" in source or "const" in source:
        schema["enum"] = source.get("enum") or [source["const"]]
    schema |= {key: source[key] for key in KEPT if key in source}
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if exclusive in source:  # a number in JSON Schema, a flag beside the bound in OpenAPI v3.0
            schema |= {bound: source[exclusive], exclusive: True}
    return schema


def description_of(source: dict[str, Any]) -> dict[str, str]:
    """The description in one line, if there is one."""
    return {"description": " ".join(source["description"].split())} if "description" in source else {}


def object_schema(source: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Fields of a block, values of a mapping, or anything at all."""
    if "properties" in source:
        schema: dict[str, Any] = {
            "properties": {name: structural(field, definitions) for name, field in source["properties"].items()}
        }
        return schema | ({"required": source["required"]} if "required" in source else {})
    values = source.get("additionalProperties", True)
    if values is True:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {"additionalProperties": structural(values, definitions)}


def list_keys(source: dict[str, Any]) -> dict[str, Any]:
    """Conditions are a map by type, so that two writers never overwrite each other's."""
    if not source["items"].get("$ref", "").endswith("/Condition"):
        return {}
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


def add_defaults(schema: dict[str, Any], values: dict[str, Any]) -> None:
    """Writes the defaults below a block: `{}` for a block, whose fields bring their own; none for an absent value."""
    for name, value in values.items():
        field = schema["properties"][name]
        if "properties" in field:
            field["default"] = {}
            add_defaults(field, value)
        elif value is not None:
            field["default"] = value
