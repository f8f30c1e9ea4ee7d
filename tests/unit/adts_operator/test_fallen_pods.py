"""What is remembered of pods that failed and are gone."""

from __future__ import annotations

from adts_operator.cluster.fallen_pods import FallenPods
from adts_operator.cluster.pod_views import PodRecord
from support.operator_jobs import make_pod


def record(index: int, phase: str, attempt: int = 1) -> PodRecord:
    return PodRecord(view=make_pod(index, phase, attempt=attempt))


def names(pods: tuple[PodRecord, ...]) -> list[str]:
    return [it.view.name for it in pods]


def test_a_failed_pod_that_is_gone_is_still_told() -> None:
    fallen = FallenPods()
    alive, failed = record(0, "Running"), record(1, "Failed")
    assert fallen.join("u", 1, [alive, failed]) == (alive, failed)
    first, second = fallen.join("u", 1, [alive])
    assert first == alive
    assert (second.view.name, second.view.exit_code, second.view.node) == ("demo-1-1", 1, "node-1")
    assert second.view.gone_by is not None, "there is nothing to delete"
    assert names(fallen.join("u", 1, [alive])) == ["demo-0-1", "demo-1-1"], "as long as the attempt lasts"


def test_other_jobs_other_attempts_and_other_ends_are_none_of_it() -> None:
    fallen = FallenPods()
    fallen.join("u", 1, [record(0, "Running"), record(1, "Succeeded"), record(2, "Failed")])
    assert fallen.join("v", 1, []) == ()
    assert fallen.join("u", 2, [record(0, "Pending", 2)]) == (record(0, "Pending", 2),)
    assert fallen.join("u", 1, []) == (), "an attempt that is over is forgotten"


def test_jobs_that_are_gone_are_forgotten() -> None:
    fallen = FallenPods()
    fallen.join("u", 1, [record(0, "Failed")])
    fallen.join("v", 1, [record(0, "Failed")])
    fallen.forget({"v"})
    assert fallen.join("u", 1, []) == ()
    assert names(fallen.join("v", 1, [])) == ["demo-0-1"]
