"""The informer's store: objects of our jobs by the job's UID, whatever order news of them comes in."""

from __future__ import annotations

from typing import Any

import pytest

from adts_api.contract import LABEL_JOB
from adts_operator.cluster.api import Api, TokenBucket, collection, resource_of
from adts_operator.informer import Informer


def thing(uid: str, version: int, *, owner: str = "job-uid", value: str = "") -> dict[str, Any]:
    metadata: dict[str, Any] = {"uid": uid, "resourceVersion": str(version), "namespace": "ns", "name": f"pod-{uid}"}
    metadata["labels"] = {LABEL_JOB: "job"}
    metadata["ownerReferences"] = [{"uid": owner, "controller": True}] if owner else []
    return {"metadata": metadata, "value": value}


class Known:
    """An informer that is only told, never asks."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        api: Api = None  # type: ignore[assignment]  # only run() needs it
        self.informer: Informer[str] = Informer(api, "/pods", lambda it: it["value"], self.note)

    def note(self, key: str, value: str | None) -> None:
        self.changed.append(f"{key}: {value}")

    def values(self, job: str = "job-uid") -> list[str]:
        return [item.value for item in self.informer.of_job(job)]

    def put(self, *arguments: Any, **named: Any) -> None:
        self.informer.put(thing(*arguments, **named))

    def deleted(self, *arguments: Any) -> None:
        self.informer.take({"type": "DELETED", "object": thing(*arguments)})


def test_news_of_an_object_name_its_job_once() -> None:
    known = Known()
    known.put("a", 5, value="old")
    known.put("a", 5, value="old")
    known.put("a", 6, value="new")
    known.put("a", 7, value="new")  # only its version is news
    assert known.values() == ["new"]
    known.deleted("a", 8)
    assert known.changed == ["ns/job: old", "ns/job: new", "ns/job: None"]


def test_older_versions_are_left() -> None:
    known = Known()
    known.put("a", 6, value="new")
    known.put("a", 5, value="old")
    assert known.values() == ["new"]


def test_the_answer_to_a_creation_after_the_deletion_makes_no_ghost() -> None:
    known = Known()
    known.put("a", 5)
    known.deleted("a", 9)
    known.put("a", 4, value="late answer")
    assert known.values() == []
    known.deleted("b", 9)  # deleted before anything was heard of it
    known.put("b", 8)
    assert known.values() == []


def test_an_object_that_loses_its_owner_leaves_the_job() -> None:
    known = Known()
    known.put("a", 5, value="it")
    known.put("a", 6, owner="", value="it")
    assert known.values() == []
    assert known.values("") == ["it"]


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("pods", "ns"), "/api/v1/namespaces/ns/pods"),
        (("pods",), "/api/v1/pods"),
        (("pods", "ns", "a", "log"), "/api/v1/namespaces/ns/pods/a/log"),
        (("leases", "ns", "a"), "/apis/coordination.k8s.io/v1/namespaces/ns/leases/a"),
    ],
)
def test_paths_and_the_resource_they_count_as(arguments: tuple[str, ...], path: str) -> None:
    assert collection(*arguments) == path
    parts = [arguments[0], *arguments[3:]]
    assert resource_of(path) == "/".join(parts)


def test_a_path_of_another_group() -> None:
    path = collection("podgroups", "ns", "g", group="/apis/scheduling.k8s.io/v1beta1")
    assert path == "/apis/scheduling.k8s.io/v1beta1/namespaces/ns/podgroups/g"
    assert resource_of(path) == "podgroups"
    assert resource_of("/apis/scheduling.k8s.io/v1beta1") == "discovery"
    assert resource_of("/api/v1/namespaces") == "namespaces"
    assert resource_of("/api/v1/namespaces/a") == "namespaces"


async def test_a_token_bucket_lets_a_burst_through_and_then_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [0.0], []

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))

    monkeypatch.setattr("asyncio.sleep", sleep)
    bucket = TokenBucket(rate=10.0, burst=2, clock=lambda: now[0])
    for _ in range(4):
        await bucket.take()
    assert slept == [0.1, 0.2]
    now[0] = 60.0
    await bucket.take()
    await bucket.take()
    await bucket.take()
    assert slept == [0.1, 0.2, 0.1]
