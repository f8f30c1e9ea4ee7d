"""Jobs as last delivered, and the patch that writes a status."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adts_api.contract import Reason
from adts_api.v1alpha1 import Progress, Status
from adts_operator.cluster.job_store import JobStore, merge_patch
from adts_operator.cluster.kubernetes_jobs import plain

KEY = "default/job"


def raw(version: int, *, uid: str = "u1", generation: int = 1, **status: Any) -> dict[str, Any]:
    metadata = {"name": "job", "namespace": "default", "uid": uid, "generation": generation}
    return {
        "apiVersion": "adts.dev/v1alpha1",
        "kind": "DistributedTraining",
        "metadata": {**metadata, "resourceVersion": str(version), "managedFields": [{}]},
        "spec": {
            "model": {"type": "mlp", "layers": 2, "hiddenSize": 8, "inputSize": 4, "outputSize": 2},
            "data": {"type": "synthetic"},
            "training": {"steps": 5, "globalBatchSize": 4},
        },
        "status": status,
    }


def test_only_newer_objects_are_news() -> None:
    store = JobStore()
    assert store.put(raw(5, phase="Running"))
    assert not store.put(raw(5, phase="Running"))
    assert not store.put(raw(4, phase="Pending"))
    stored = store.get(KEY)
    assert stored is not None
    assert (stored.job.status.phase, stored.refusal) == ("Running", None)


def test_the_echo_of_a_written_status_is_no_news() -> None:
    store = JobStore()
    store.put(raw(5))
    store.written(KEY, Status(phase="Starting", attempt=1), raw(6, phase="Starting", attempt=1))
    assert not store.put(raw(6, phase="Starting", attempt=1))
    stored = store.get(KEY)
    assert stored is not None
    assert (stored.job.status.attempt, stored.job.metadata.resource_version) == (1, "6")
    assert stored.raw_status == {"phase": "Starting", "attempt": 1}


def test_a_spec_that_changed_between_read_and_write_is_seen() -> None:
    store = JobStore()
    store.put(raw(5))
    answer = raw(7, generation=2, phase="Starting")
    answer["spec"]["runPolicy"] = {"suspend": True}
    store.written(KEY, Status(phase="Starting"), answer)
    stored = store.get(KEY)
    assert stored is not None
    assert stored.job.spec.run_policy.suspend


def test_a_bad_spec_is_kept_with_its_refusal() -> None:
    store = JobStore()
    bad = raw(5)
    bad["spec"]["training"]["globalBatchSize"] = 3
    bad["spec"]["workers"] = {"replicas": 2}
    store.put(bad)
    stored = store.get(KEY)
    assert stored is not None
    assert stored.refusal is not None
    assert stored.refusal.reason is Reason.INVALID_SPEC
    assert "spec.training.globalBatchSize" in stored.refusal.message
    good = raw(6, generation=2)
    store.put(good)
    assert store.get(KEY).refusal is None  # type: ignore[union-attr]


def test_another_job_of_the_same_name_is_judged_anew() -> None:
    store = JobStore()
    store.put(raw(5, uid="u1", phase="Succeeded"))
    assert store.put(raw(9, uid="u2"))
    assert store.get(KEY).job.status.phase == "Pending"  # type: ignore[union-attr]
    assert not store.remove(KEY, "u1")
    assert store.remove(KEY, "u2")
    assert store.get(KEY) is None


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {}, {"a": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a": {"c": 3}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
    ],
)
def test_merge_patch(old: dict[str, Any], new: dict[str, Any], patch: dict[str, Any]) -> None:
    assert merge_patch(old, new) == patch


JSON = st.recursive(
    st.integers() | st.text() | st.booleans() | st.lists(st.integers()),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON)


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_makes_the_new_object_of_the_old_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merged(copy.deepcopy(old), merge_patch(old, new)) == new


def merged(target: Any, patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7386, section 2."""
    result: dict[str, Any] = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = merged(result.get(key), value)
        else:
            result[key] = value
    return result


def test_a_loss_that_json_cannot_say_is_left_out() -> None:
    status = plain(Status(progress=Progress(step=3, loss=math.nan, evaluation_loss=2.5)))
    assert "loss" not in status["progress"]
    assert status["progress"]["evaluationLoss"] == 2.5
