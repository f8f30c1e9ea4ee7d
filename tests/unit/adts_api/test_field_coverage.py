"""No field of the spec is ignored: each has code, or is refused when it is set."""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args, get_origin

import pytest

from adts_api.cells import CELLS, IMPLEMENTED, cell
from adts_api.fields import Field, spec_leaves
from support.manifests import GPT, complaints

LEAVES = spec_leaves()


def other_value(field: Field) -> Any:
    """A value of the field's type and bounds that is not its default."""
    annotation, default = field.info.annotation, field.default
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice and choice != default)
    if annotation is bool:
        return not default
    if annotation is str:
        return "80Gi" if field.path == "workers.gpuMemory" else "something"
    if annotation is float:
        return default / 2
    if get_origin(annotation) is list:
        return [1] if field.path == "runPolicy.permanentExitCodes" else ["something"]
    if get_origin(annotation) is dict:
        return {"something": 1}
    return (default or 1) + 1


def with_value(path: str, value: Any) -> dict[str, Any]:
    manifest = copy.deepcopy(GPT)
    *blocks, name = path.split(".")
    block = manifest["spec"]
    for key in blocks:
        block = block.setdefault(key, {})
    block[name] = value
    return manifest


def test_the_table_names_only_fields_that_exist() -> None:
    assert set(LEAVES) >= IMPLEMENTED


@pytest.mark.parametrize("path", sorted(set(LEAVES) - IMPLEMENTED))
def test_a_field_without_code_is_refused_when_set(path: str) -> None:
    lines = complaints(with_value(path, other_value(LEAVES[path])))
    assert any(line.startswith(f"spec.{path}: ") and line.endswith("is not supported yet; remove it") for line in lines)


@pytest.mark.parametrize("path", sorted(set(LEAVES) - IMPLEMENTED))
def test_a_field_without_code_at_its_default_is_as_good_as_absent(path: str) -> None:
    assert complaints(with_value(path, LEAVES[path].default)) == []


@pytest.mark.parametrize("path", sorted(IMPLEMENTED))
def test_a_field_with_code_is_never_called_unsupported(path: str) -> None:
    value = 3 if path == "zero.stage" else other_value(LEAVES[path])
    assert not [line for line in complaints(with_value(path, value)) if "is not supported yet; remove it" in line]


def test_every_engine_has_a_row_for_every_stage() -> None:
    engines = [engine for engine in get_args(LEAVES["zero.engine"].info.annotation) if engine != "auto"]
    assert [(row.engine, row.stage) for row in CELLS] == [(engine, stage) for engine in engines for stage in range(4)]


@pytest.mark.parametrize(
    "row", [row for row in CELLS if not row.supported], ids=lambda row: f"{row.engine}-{row.stage}"
)
def test_a_refused_cell_says_why_and_names_one_that_runs(row: Any) -> None:
    assert row.reason
    assert row.nearest
    assert cell(*row.nearest).supported


@pytest.mark.parametrize("row", CELLS, ids=lambda row: f"{row.engine}-{row.stage}")
@pytest.mark.parametrize("dtype", get_args(LEAVES["precision.dtype"].info.annotation))
def test_validation_accepts_exactly_the_cells_that_run(row: Any, dtype: str) -> None:
    manifest = with_value("zero", {"engine": row.engine, "stage": row.stage})
    manifest["spec"]["precision"] = {"dtype": dtype}
    assert (complaints(manifest) == []) == (dtype in row.precisions)
