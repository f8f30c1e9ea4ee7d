"""Manifests as files and as mappings: reading them, and `--set path=value`. Checking them is `validate.parse`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from adts_api.errors import ConfigError, FieldError, ManifestError
from adts_api.fields import by_alias
from adts_api.v1alpha1 import API_VERSION, KIND, DistributedTraining
from adts_api.wording import describe, show
from adts_api.yaml_text import read_documents

TOKEN = re.compile(r"""\.?(?P<key>[^.\[\]="]+)|\[(?P<index>[0-9]+)\]|\["(?P<quoted>[^"]*)"\]""")
"""One step of a path: a key after a dot, an index in brackets, or a key with dots in brackets and quotes."""

ROOT_FIELDS = frozenset(by_alias(DistributedTraining))
"""First steps that are not below `spec`."""


def load(path: str | Path) -> dict[str, Any]:
    """The one manifest of a YAML file, unchecked below `kind`. Raises ConfigError or ManifestError with one message."""
    manifests = load_all(path)
    if len(manifests) > 1:
        raise ConfigError(f"{path}: holds {len(manifests)} manifests; keep one")
    return manifests[0]


def load_all(path: str | Path) -> list[dict[str, Any]]:
    """Every manifest of a YAML file. Raises ConfigError or ManifestError with one message."""
    documents = read_documents(read_text(Path(path)), str(path))
    if not documents:
        raise ConfigError(f"{path}: is empty; write a manifest of kind {KIND}")
    for number, document in enumerate(documents, start=1):
        source = str(path) if len(documents) == 1 else f"{path}: document {number}"
        if not isinstance(document, dict):
            raise ConfigError(
                f"{source}: {describe(document)}; write a mapping with apiVersion, kind, metadata and spec"
            )
        wrong = [error for key in ("apiVersion", "kind") if (error := type_error(document, key))]
        if wrong:
            raise ManifestError(wrong, source)
    return documents


def type_error(document: dict[str, Any], key: str) -> FieldError | None:
    """What is wrong with `apiVersion` or `kind`."""
    wanted = {"apiVersion": API_VERSION, "kind": KIND}[key]
    if key not in document:
        return FieldError(key, "is missing", f"write {key}: {wanted}")
    value = document[key]
    if value == wanted:
        return None
    problem = f"{show(value)} is unknown" if isinstance(value, str) else describe(value)
    return FieldError(key, problem, f"write {wanted}")


def read_text(path: Path) -> str:
    """The text of a file. Raises ConfigError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder; name a file in it") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8 text") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path}: cannot be read ({reason}); check path and permissions") from error


def set_value(manifest: dict[str, Any], assignment: str) -> dict[str, Any]:
    """A copy of a manifest with `spec.training.steps=10` applied; the value is YAML, null restores the default.

    A leading `spec.` may be left out, `a[0]` is an item of a list (one past its end appends), `a["b.c"]` a key with
    dots. Missing mappings are made; whether the field exists is for `validate.parse` to say. Raises ConfigError.
    """
    steps, text = split_assignment(assignment)
    values = read_documents(text, f"--set {assignment}") if text.strip() else []
    if len(values) > 1:
        raise ConfigError(f"--set {assignment}: the value is {len(values)} documents; write one")
    result: dict[str, Any] = replaced(manifest, steps, values[0] if values else None, "", assignment)
    return result


def split_assignment(assignment: str) -> tuple[list[str | int], str]:
    """The steps of the path, from the root of the manifest, and the text of the value."""
    steps: list[str | int] = []
    position = 0
    while token := TOKEN.match(assignment, position):
        key, index = token["key"] or token["quoted"], token["index"]
        steps.append(int(index) if index else key)
        position = token.end()
    if not steps or isinstance(steps[0], int) or assignment[position : position + 1] != "=":
        raise ConfigError(f"--set {assignment}: is not path=value; write such as --set training.steps=10")
    if steps[0] not in ROOT_FIELDS:
        steps.insert(0, "spec")
    return steps, assignment[position + 1 :]


def replaced(container: Any, steps: list[str | int], value: Any, path: str, assignment: str) -> Any:
    """A copy of container in which the item that steps lead to is value."""
    if not steps:
        return value
    step, *rest = steps
    here = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}".lstrip(".")
    if isinstance(step, int):
        items = [] if container is None else container
        if not isinstance(items, list):
            raise ConfigError(f"--set {assignment}: {path} {describe(items)}, not a list; name a key in it")
        if step > len(items):
            raise ConfigError(
                f"--set {assignment}: {path} has {len(items)} items; use an index of at most {len(items)}"
            )
        old = items[step] if step < len(items) else None
        return [*items[:step], replaced(old, rest, value, here, assignment), *items[step + 1 :]]
    mapping = {} if container is None else container
    if not isinstance(mapping, dict):
        where = "an item such as [0]" if isinstance(mapping, list) else "its whole value"
        raise ConfigError(f"--set {assignment}: {path} {describe(mapping)}, not a mapping; set {where}")
    return {**mapping, step: replaced(mapping.get(step), rest, value, here, assignment)}
