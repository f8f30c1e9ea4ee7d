"""Folders of this machine in the place of the pod's mounts: as a table, and applied to the paths of a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

PATH_FIELDS = (
    "model.path",
    "data.path",
    "data.tokenizer",
    "data.evaluation.path",
    "checkpoint.path",
    "checkpoint.initializeFrom",
    "zero.offload.nvmePath",
)
"""Fields of the spec that hold a path as the pod sees it."""

CLAIMS = ("data", "checkpoint")
"""Blocks of the spec that may name a claim: a folder stands in for it, whatever its name."""


def to_local(path: str, mounts: Mapping[str, Path]) -> str:
    """The path on this machine: below the deepest mount that contains it, else as it is."""
    within = [mount for mount in mounts if PurePosixPath(path).is_relative_to(mount)]
    if not within:
        return path
    mount = max(within, key=len)
    return str(mounts[mount] / PurePosixPath(path).relative_to(mount))


def localize(resource: Mapping[str, Any], mounts: Mapping[str, Path]) -> dict[str, Any]:
    """A copy of a resource whose paths are those of this machine. Claims are left out: nothing is mounted here."""
    spec = dict(resource["spec"])
    for block in CLAIMS:
        spec[block] = {key: value for key, value in spec.get(block, {}).items() if key != "claim"}
    for field in PATH_FIELDS:
        _apply(spec, field.split("."), mounts)
    return {**resource, "spec": spec}


def _apply(block: dict[str, Any], keys: list[str], mounts: Mapping[str, Path]) -> None:
    key, *rest = keys
    if key not in block:
        return
    if rest:
        block[key] = dict(block[key])
        _apply(block[key], rest, mounts)
    elif block[key]:
        block[key] = to_local(block[key], mounts)
