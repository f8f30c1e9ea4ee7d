"""Whatever a manifest holds, `parse` returns a resource or raises ManifestError."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adts_api.errors import ManifestError
from adts_api.fields import spec_leaves
from adts_api.validate import parse
from support.manifests import GPT

NAMES = sorted({part for path in spec_leaves() for part in path.split(".")} | {"metadata", "name", "containers", "env"})
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["gpt", "mlp", "text", "/data/x", "s3://b/x", "a:b", "\ud800"])
)
keys = st.sampled_from(NAMES) | st.text(max_size=3)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def judge(manifest: Any) -> None:
    """Fails on any exception but a ManifestError whose errors are complete and printable."""
    try:
        parse(manifest)
        return
    except ManifestError as error:
        refusal = error
    assert refusal.errors
    assert all(error.path and error.problem and error.fix for error in refusal.errors)
    assert str(refusal).encode("utf-8")


@given(trees)
def test_any_tree(tree: Any) -> None:
    judge(tree)


@given(trees)
def test_any_tree_as_spec(tree: Any) -> None:
    judge({**GPT, "spec": tree})


@given(st.dictionaries(st.sampled_from(sorted(spec_leaves())), trees, max_size=4))
def test_any_values_of_known_fields(values: dict[str, Any]) -> None:
    spec: dict[str, Any] = {}
    for path, value in values.items():
        *blocks, name = path.split(".")
        block = spec
        for key in blocks:
            block = block.setdefault(key, {})
        block[name] = value
    judge({**GPT, "spec": spec})


@given(trees, trees)
def test_any_template(metadata: Any, pod: Any) -> None:
    workers = {"template": {"metadata": metadata, "spec": pod}}
    judge({**GPT, "spec": {**GPT["spec"], "workers": workers}})


def test_a_resource_survives_its_own_dump() -> None:
    job = parse(GPT)
    assert parse(job.model_dump(by_alias=True, mode="json")) == job
