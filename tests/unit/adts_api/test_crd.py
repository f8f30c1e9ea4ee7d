"""The CustomResourceDefinition: its shape, its defaults, and that the generated files are up to date."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adts_api import contract, mutability
from adts_api.crd import crd, differences, generated_files, main
from adts_api.fields import spec_leaves, walk
from adts_api.v1alpha1 import Spec, Status

CHECKOUT = Path(__file__).parents[3]
GOLDEN = CHECKOUT / "tests" / "golden" / "api" / "defaults.json"

SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC, STATUS = SCHEMA["properties"]["spec"], SCHEMA["properties"]["status"]


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def filled(schema: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """What the API server makes of a value: absent fields get their defaults, from the outside in."""
    result = dict(value)
    for name, field in schema.get("properties", {}).items():
        if name not in result and "default" in field:
            result[name] = field["default"]
        if isinstance(result.get(name), dict):
            result[name] = filled(field, result[name])
    return result


def test_the_generated_files_are_up_to_date() -> None:
    assert differences(CHECKOUT) == []


def test_the_check_fails_on_a_difference_and_a_write_repairs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in generated_files():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, tmp_path / name)
    page = tmp_path / "docs" / "contract.md"
    page.write_text(page.read_text() + "by hand\n")
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert "-by hand" in capsys.readouterr().out
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0


def test_kubectl_apply_can_store_it() -> None:
    assert len(generated_files()["crds/distributedtrainings.adts.dev.yaml"]) < 200_000


def test_names_scope_and_columns() -> None:
    spec = yaml.safe_load(generated_files()["crds/distributedtrainings.adts.dev.yaml"])["spec"]
    (version,) = spec["versions"]
    assert spec["scope"] == "Namespaced"
    assert spec["names"]["shortNames"] == ["dtrain", "dt"]
    assert version["subresources"] == {"status": {}}
    columns = version["additionalPrinterColumns"]
    assert [c["name"] for c in columns if "priority" not in c] == [
        "Phase", "Ready", "Desired", "Layout", "Step", "Loss", "Tokens/s", "Restarts", "Age",
    ]  # fmt: skip
    assert [c["name"] for c in columns if c.get("priority") == 1] == ["MFU", "ETA", "Checkpoint"]


def test_every_column_shows_a_field_of_the_status() -> None:
    fields = {f".status.{field.path}" for field in walk(Status)}
    columns = crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    assert {c["jsonPath"] for c in columns} <= fields | {".metadata.creationTimestamp"}


@pytest.mark.parametrize(("path", "node"), [*nodes(SPEC, "spec"), *nodes(STATUS, "status")])
def test_every_node_is_structural(path: str, node: dict[str, Any]) -> None:
    assert node["type"] in {"object", "array", "string", "integer", "number", "boolean"}
    assert not node.keys() & {"$ref", "$defs", "anyOf", "oneOf", "allOf", "title", "const", "additionalProperties"}
    if node["type"] == "object":
        assert ("properties" in node) != ("x-kubernetes-preserve-unknown-fields" in node)
    if not path.endswith("[]"):
        assert node["description"]


def test_only_the_template_and_the_arguments_are_open() -> None:
    open_nodes = [path for path, node in nodes(SPEC, "spec") if "x-kubernetes-preserve-unknown-fields" in node]
    assert open_nodes == ["spec.workers.template", "spec.model.arguments"]


def test_nothing_below_spec_is_required_and_the_spec_is() -> None:
    assert [path for path, node in nodes(SPEC, "spec") if "required" in node] == []
    assert SCHEMA["required"] == ["spec"]


def test_every_block_of_the_spec_has_a_default_but_not_the_spec() -> None:
    without = [path for path, node in nodes(SPEC, "spec") if node["type"] == "object" and node.get("default") != {}]
    assert without == ["spec"]
    assert [path for path, node in nodes(STATUS, "status") if "default" in node] == []


def test_defaults_are_those_of_the_models_and_of_the_api_server() -> None:
    golden = json.loads(GOLDEN.read_text())  # made of `spec: {}` by the API server's own defaulting
    assert filled(SPEC, {}) == golden
    assert Spec().model_dump(by_alias=True, mode="json", exclude_none=True) == golden


def test_a_bound_of_an_open_interval_is_openapi_3_0() -> None:
    learning_rate = SPEC["properties"]["optimizer"]["properties"]["learningRate"]
    assert (learning_rate["minimum"], learning_rate["exclusiveMinimum"]) == (0, True)


def test_an_optional_field_is_nullable_and_has_no_default() -> None:
    optional = {f"spec.{path}" for path, field in spec_leaves().items() if field.default is None}
    assert {path for path, node in nodes(SPEC, "spec") if node.get("nullable")} == optional
    assert optional
    assert not [path for path, node in nodes(SPEC, "spec") if node.get("nullable") and "default" in node]


def test_conditions_are_a_map_by_type() -> None:
    conditions = STATUS["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert "type" in conditions["items"]["required"]


def test_the_rules_name_fields_that_exist() -> None:
    fields = {field.path for field in walk(Spec)}
    assert {rule["fieldPath"].removeprefix(".spec.") for rule in mutability.rules()} <= fields
    assert {rule["fieldPath"].lstrip(".") for rule in SPEC["x-kubernetes-validations"] if "fieldPath" in rule} <= fields


def test_every_field_may_change_at_one_time_or_another_or_never() -> None:
    """In a running job exactly these fields, which only the operator reads."""
    fixed = [*mutability.NEVER, *mutability.ONCE_BEGUN, *mutability.while_suspended()]
    free = {path for path in spec_leaves() if not any(f"{path}.".startswith(f"{it}.") for it in fixed)}
    assert free == set(mutability.ANY_TIME)
    assert free == {
        f"runPolicy.{field}"
        for field in (
            "suspend", "backoffLimit", "activeDeadlineSeconds", "startDeadlineSeconds", "ttlSecondsAfterFinished",
            "cleanPodPolicy", "permanentExitCodes",
        )
    }  # fmt: skip


def test_the_contract_page_explains_every_name() -> None:
    page = generated_files()["docs/contract.md"]
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert all(cell.strip() for row in rows for cell in row.strip("|").split("|"))
    names = {value for key, value in vars(contract).items() if key.startswith(("LABEL_", "MOUNT_"))}
    names |= contract.RESERVED_ENV | {contract.exit_reason(code) for code in contract.ExitCode}
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_the_manifest_page_has_a_row_for_every_field() -> None:
    page = generated_files()["docs/manifest.md"]
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    unsupported = [row for row in rows if "**Not supported yet.**" in row]
    assert all(f"`{path.rpartition('.')[2]}`" in page for path in spec_leaves())
    assert any(row.startswith("| `context`") for row in unsupported)
    assert not any(row.startswith("| `microbatches`") for row in unsupported)
