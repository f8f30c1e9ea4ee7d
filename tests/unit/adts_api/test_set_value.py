"""`--set path=value` changes one value of a copy of the manifest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adts_api.errors import ConfigError
from adts_api.fields import spec_leaves
from adts_api.manifest import set_value

CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "full path": ({}, "spec.training.steps=10", {"spec": {"training": {"steps": 10}}}),
    "without spec": ({}, "training.steps=10", {"spec": {"training": {"steps": 10}}}),
    "metadata": ({}, "metadata.name=b", {"metadata": {"name": "b"}}),
    "beside others": ({"spec": {"a": 1}}, "b=2", {"spec": {"a": 1, "b": 2}}),
    "over another": ({"spec": {"a": 1}}, "a=2", {"spec": {"a": 2}}),
    "a number": ({}, "a=3e-4", {"spec": {"a": 3e-4}}),
    "a string with =": ({}, "a=b=c", {"spec": {"a": "b=c"}}),
    "a mapping": ({}, "a={b: [1, x]}", {"spec": {"a": {"b": [1, "x"]}}}),
    "nothing is null": ({"spec": {"a": 1}}, "a=", {"spec": {"a": None}}),
    "below a null": ({"spec": {"a": None}}, "a.b=1", {"spec": {"a": {"b": 1}}}),
    "item of a list": ({"spec": {"a": [1, 2]}}, "a[1]=3", {"spec": {"a": [1, 3]}}),
    "one past the end": ({"spec": {"a": [1]}}, "a[1]=2", {"spec": {"a": [1, 2]}}),
    "new list": ({}, "a[0].b=1", {"spec": {"a": [{"b": 1}]}}),
    "inside an item": ({"spec": {"a": [{"b": 1}]}}, "a[0].c=2", {"spec": {"a": [{"b": 1, "c": 2}]}}),
    "key with dots": ({}, 'a["b.c/d"]=1', {"spec": {"a": {"b.c/d": 1}}}),
}


@pytest.mark.parametrize(("manifest", "assignment", "result"), CASES.values(), ids=CASES)
def test_the_value_is_set(manifest: dict[str, Any], assignment: str, result: dict[str, Any]) -> None:
    before = json.dumps(manifest)
    assert set_value(manifest, assignment) == result
    assert json.dumps(manifest) == before


BAD = {
    "no value": ({}, "training.steps", "is not path=value; write such as --set training.steps=10"),
    "no path": ({}, "=5", "is not path=value; write such as --set training.steps=10"),
    "index first": ({}, "[0]=5", "is not path=value; write such as --set training.steps=10"),
    "two dots": ({}, "a..b=5", "is not path=value; write such as --set training.steps=10"),
    "open bracket": ({}, "a[0=5", "is not path=value; write such as --set training.steps=10"),
    "below a scalar": ({"spec": {"a": 5}}, "a.b=1", "spec.a 5 is an integer, not a mapping; set its whole value"),
    "key of a list": ({"spec": {"a": []}}, "a.b=1", "spec.a is a list, not a mapping; set an item such as [0]"),
    "item of a mapping": ({"spec": {"a": {}}}, "a[0]=1", "spec.a is a mapping, not a list; name a key in it"),
    "far past the end": ({"spec": {"a": [1]}}, "a[2]=1", "spec.a has 1 items; use an index of at most 1"),
    "bad YAML": ({}, "a=[1", "expected ',' or ']', but got '<stream end>'; check indentation, quotes and brackets"),
    "two documents": ({}, "a=1\n---\n2", "the value is 2 documents; write one"),
}


@pytest.mark.parametrize(("manifest", "assignment", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_set_is_one_message(manifest: dict[str, Any], assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        set_value(manifest, assignment)
    assert str(caught.value).startswith(f"--set {assignment}:")
    assert str(caught.value).endswith(message)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab :#-'\"[{ü"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(path=st.sampled_from(sorted(spec_leaves())), value=JSON)
def test_what_is_set_is_read_back(path: str, value: Any) -> None:
    found = set_value({}, f"{path}={json.dumps(value)}")["spec"]
    for key in path.split("."):
        found = found[key]
    assert found == value
