"""The user's PodTemplateSpec laid over the generated pod: the template wins per field, lists merge by their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LIST_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}
"""Lists whose items are told apart by one field; any other list of the template replaces ours."""

WHOLE_ITEMS = ("env", "volumes", "volumeMounts")
"""Lists whose items are replaced whole: half of one volume source and half of another is none."""


def merge(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """`ours` with the fields of `theirs` over it; neither is changed. A null in `theirs` removes the field."""
    merged = dict(ours)
    for key, value in theirs.items():
        if value is None:
            merged.pop(key, None)
        elif key == "tolerations":
            merged[key] = _tolerations(merged.get(key, []), value)
        elif key in LIST_KEYS and key in merged:
            merged[key] = _merge_lists(key, merged[key], value)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _merge_lists(field: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our items in our order, each with theirs of the same key over it, then theirs that are new."""
    key = LIST_KEYS[field]
    named = {item.get(key): item for item in theirs}
    merged = []
    for item in ours:
        over = named.pop(item.get(key), None)
        if over is None:
            merged.append(item)
        else:
            merged.append(over if field in WHOLE_ITEMS else merge(item, over))
    return merged + list(named.values())


def _tolerations(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Theirs, and ours for taints they say nothing about. A toleration without a key tolerates everything."""
    keys = {toleration.get("key") for toleration in theirs}
    return [*(t for t in ours if None not in keys and t.get("key") not in keys), *theirs]
