"""Leader election: what to do about a Lease as it was last seen, and what is written into it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from adts_operator.leader import (
    DURATION,
    RENEW_DEADLINE,
    REQUEST_SECONDS,
    RETRY_SECONDS,
    Record,
    claim,
    decide,
    make_identity,
)

NOW = datetime(2026, 11, 22, 8, 5, 3, 42, tzinfo=UTC)
EARLIER = "2026-11-22T08:05:01.000000Z"


def record(holder: str, duration: float = 10) -> Record:
    return Record(holder=holder, duration=duration, acquired=EARLIER, renewed=EARLIER, transitions=3)


@pytest.mark.parametrize(
    ("seen", "exists", "age", "move"),
    [
        pytest.param(None, False, 0, "create", id="nobody has ever led"),
        pytest.param(record(""), True, 0, "take", id="released: at once"),
        pytest.param(record("me"), True, 0, "renew", id="mine"),
        pytest.param(record("me"), True, 99, "renew", id="mine, whatever its age: nobody took it"),
        pytest.param(record("other"), True, 0, "wait", id="another's, new to us: its age is unknown"),
        pytest.param(record("other"), True, 9.9, "wait", id="another's, still good"),
        pytest.param(record("other"), True, 10, "take", id="another's, unchanged for its duration"),
        pytest.param(record("other", 60), True, 59, "wait", id="the duration is the holder's own"),
        pytest.param(record("other"), False, 9.9, "wait", id="deleted under its holder, who does not know yet"),
        pytest.param(record("other"), False, 10, "create", id="deleted, and its holder had time to notice"),
        pytest.param(record("me"), False, 0, "create", id="mine, deleted"),
        pytest.param(record(""), False, 0, "create", id="released, then deleted"),
    ],
)
def test_what_to_do_follows_from_what_was_seen(seen: Record | None, exists: bool, age: float, move: str) -> None:
    assert decide(seen, exists=exists, identity="me", observed_at=1000.0, now=1000.0 + age) == move


def lease(**spec: Any) -> dict[str, Any]:
    found = {"holderIdentity": "other", "leaseDurationSeconds": 10, "leaseTransitions": 3}
    return {
        "metadata": {"name": "adts-operator", "resourceVersion": "7", "labels": {"a": "b"}},
        "spec": found | {"acquireTime": EARLIER, "renewTime": EARLIER} | spec,
    }


@pytest.mark.parametrize(
    ("old", "holder", "expected"),
    [
        pytest.param({}, "other", {"acquireTime": EARLIER, "leaseTransitions": 3}, id="renewed"),
        pytest.param({}, "me", {"holderIdentity": "me", "leaseTransitions": 4}, id="taken over"),
        pytest.param({}, "", {"holderIdentity": None, "leaseTransitions": 3}, id="released"),
        pytest.param({"holderIdentity": None}, "me", {"holderIdentity": "me", "leaseTransitions": 4}, id="taken"),
        pytest.param({"strategy": "x"}, "other", {"strategy": "x", "acquireTime": EARLIER}, id="others' fields stay"),
    ],
)
def test_a_claim_changes_what_it_must(old: dict[str, Any], holder: str, expected: dict[str, Any]) -> None:
    before = lease(**old)
    claimed = claim(before, holder, at=NOW)
    now = "2026-11-22T08:05:03.000042Z"
    assert claimed["spec"] == {**before["spec"], "acquireTime": now, "renewTime": now, **expected}
    assert claimed["metadata"] == before["metadata"], "with the resourceVersion: a write in between is a conflict"


def test_the_first_claim_counts_no_transition() -> None:
    claimed = claim({"metadata": {"name": "adts-operator"}}, "me", at=NOW)
    assert claimed["spec"]["leaseTransitions"] == 0
    assert claimed["spec"]["leaseDurationSeconds"] == DURATION


def test_a_claim_names_the_owner() -> None:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "adts-operator-x", "uid": "1"}
    assert claim(lease(), "me", at=NOW, owner=owner)["metadata"]["ownerReferences"] == [owner]


@pytest.mark.parametrize("found", [{}, {"spec": None}, {"spec": {}}])
def test_a_lease_without_a_spec_is_free(found: dict[str, Any]) -> None:
    assert Record.of(found).holder == ""


def test_any_change_of_the_record_is_a_sign_of_life() -> None:
    before = Record.of(lease())
    assert Record.of(lease(renewTime="2026-11-22T08:05:02.000000Z")) != before
    touched = lease()
    touched["metadata"]["resourceVersion"] = "8"
    assert Record.of(touched) == before, "somebody's annotation is none"


def test_the_leader_ends_before_another_can_take_over() -> None:
    assert RENEW_DEADLINE + 1.0 < DURATION, "a second for the last words"
    assert RETRY_SECONDS + REQUEST_SECONDS < RENEW_DEADLINE


def test_an_identity_is_new_with_every_process() -> None:
    assert make_identity("pod").startswith("pod_")
    assert make_identity("pod") != make_identity("pod")
    assert make_identity("")
