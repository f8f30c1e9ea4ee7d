"""A small valid manifest and what `parse` says of it after some changes."""

from __future__ import annotations

from typing import Any

from adts_api.errors import ManifestError
from adts_api.manifest import set_value
from adts_api.validate import parse

GPT: dict[str, Any] = {
    "apiVersion": "adts.dev/v1alpha1",
    "kind": "DistributedTraining",
    "metadata": {"name": "demo"},
    "spec": {
        "model": {"type": "gpt"},
        "data": {"type": "tokens", "path": "/data/train.bin"},
        "training": {"steps": 100},
    },
}

MLP: dict[str, Any] = {
    **GPT,
    "spec": {
        "model": {"type": "mlp", "inputSize": 4, "outputSize": 2},
        "data": {"type": "synthetic"},
        "training": {"steps": 100},
    },
}


def changed(*assignments: str, base: dict[str, Any] = GPT) -> dict[str, Any]:
    """A manifest with `path=value` assignments applied."""
    for assignment in assignments:
        base = set_value(base, assignment)
    return base


def complaints(manifest: Any) -> list[str]:
    """The lines of the ManifestError that a manifest gets; none for a valid one."""
    try:
        parse(manifest)
    except ManifestError as error:
        return str(error).splitlines()
    return []
