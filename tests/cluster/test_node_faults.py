"""What a job must survive of its nodes: no memory, no kubelet, no network.

A node that does not answer is noticed by the node controller: its pods are not Ready after about 20 s, and deleted 30 s
later, as they tolerate it for no longer. Nobody can stop them, so they stay `Terminating` until the node is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.harness.access import Access
from cluster.harness.cluster import Cluster
from cluster.harness.node import Node
from support.cluster_jobs import PATIENCE, RUN_ON, Jobs, attempt_of, script, wait_for
from support.gang_observer import GangObserver
from support.operator_access import Place, operating
from support.trainer_jobs import shared_claim, spread, training

AWAY_SECONDS = 60.0
"""Aim: from a node's end until its pods are replaced; about 20 s until it is noticed, 30 s tolerated."""
RETURN_SECONDS = 30.0
"""Aim: from a node's return until the pods that it kept are gone."""

Measured = Callable[[str], None]


@pytest.fixture(scope="module")
def place(cluster: Access, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with operating(cluster, tmp_path_factory.mktemp("nodes")) as running:
        with GangObserver(cluster.kubeconfig, running.namespace) as seen:
            yield running
        assert seen.violations() == []


@pytest.fixture
def jobs(place: Place) -> Iterator[Jobs]:
    yield place.jobs
    place.cluster.kubectl("-n", place.namespace, "delete", "dtrain", "--all", "--timeout=60s", timeout=70)


@pytest.fixture
def node(own_cluster: Cluster) -> Iterator[Node]:
    """A node to break; well again in the end."""
    victim = own_cluster.nodes[0]
    yield victim
    victim.link_up()
    if not victim.kubelet.is_alive():
        victim.start_kubelet()
    own_cluster.wait_for_nodes()
    own_cluster.advertise_gpus()


def on(node: Node, pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the pods that are on a node."""
    return [pod for pod in pods if pod["spec"].get("nodeName") == node.name]


def newest(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the pods that belong to the last attempt."""
    last = max(attempt_of(pod) for pod in pods)
    return [pod for pod in pods if attempt_of(pod) == last]


def names(pods: list[dict[str, Any]]) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods]


def test_a_container_out_of_memory(jobs: Jobs) -> None:
    eater = "import time; x = [b'x' * (1 << 20) for _ in range(1000)]; time.sleep(60)"
    code = f'[ "$NODE_RANK" = 1 ] && exec python3 -c "{eater}"\n{RUN_ON}'
    container = {"name": "trainer", "resources": {"limits": {"memory": "64Mi"}}}
    workers = {"template": {"spec": {"containers": [container]}}}
    jobs.apply(script("hungry", jobs.namespace, code, workers=workers, runPolicy={"backoffLimit": 1}))
    status = jobs.wait("hungry", "Failed", 2 * PATIENCE)
    (restart,) = status["restarts"]
    assert (restart["pod"], restart["exitCode"], restart["reason"]) == ("hungry-1-1", 137, "OutOfMemory")
    assert restart["node"] in ("n1", "n2")
    failed = jobs.condition("hungry", "Failed")
    assert failed["reason"] == "BackoffLimitExceeded"
    assert "hungry-1-2" in failed["message"]
    assert "OutOfMemory" in failed["message"]


@pytest.mark.parametrize(
    ("breaks", "repairs"),
    [(Node.stop_kubelet, Node.start_kubelet), (Node.link_down, Node.link_up)],
    ids=["kubelet stopped", "link down"],
)
def test_a_node_that_does_not_answer(
    breaks: Callable[[Node], None], repairs: Callable[[Node], None], node: Node, jobs: Jobs, measured: Measured
) -> None:
    how = breaks.__name__.replace("_", " ")
    jobs.apply(script("far", jobs.namespace, RUN_ON, workers={"template": {"spec": spread("far")}}))
    jobs.wait("far", "Running", PATIENCE)
    (lost,) = on(node, jobs.pods("far"))
    begin = time.monotonic()
    breaks(node)
    wait_for(
        lambda: jobs.status("far").get("attempt") == 2 and jobs.status("far")["phase"] == "Running",
        4 * AWAY_SECONDS,
        "the next attempt",
        lambda: jobs.status("far"),
    )
    measured(f"{how}: the next attempt runs after {time.monotonic() - begin:.0f} s (aim: {AWAY_SECONDS:g})")
    (restart,) = jobs.status("far")["restarts"]
    expected = (lost["metadata"]["name"], node.name, "NodeNotReady")
    assert (restart["pod"], restart["node"], restart["reason"]) == expected
    assert any(event["reason"] == "WorkerLost" and node.name in event["message"] for event in jobs.events("far"))
    pods = jobs.pods("far")
    assert on(node, newest(pods)) == []
    assert len(newest(pods)) == 2
    (stuck,) = on(node, pods)
    assert stuck["metadata"]["name"] == lost["metadata"]["name"]
    assert "deletionTimestamp" in stuck["metadata"]
    begin = time.monotonic()
    repairs(node)
    wait_for(
        lambda: not on(node, jobs.pods("far")), 4 * RETURN_SECONDS, "the old pod is gone", lambda: jobs.pods("far")
    )
    measured(f"{how}: the old pod is gone {time.monotonic() - begin:.0f} s after the node's return")
    assert names(jobs.pods("far")) == names(newest(pods))
    assert jobs.status("far")["phase"] == "Running"


def test_training_goes_on_without_a_node(
    node: Node, place: Place, jobs: Jobs, trainer_image: str, tmp_path: Path, measured: Measured
) -> None:
    """The worker that is left notices before the node controller does; nothing depends on whom is asked first."""
    with shared_claim(place.cluster, place.namespace, "learner", tmp_path / "checkpoints"):
        template = {"template": {"spec": spread("learner")}}
        jobs.apply(training("learner", jobs.namespace, trainer_image, workers=template))
        wait_for(lambda: checkpoint(jobs) > 0, 2 * PATIENCE, "a checkpoint", lambda: jobs.status("learner"))
        assert len(on(node, jobs.pods("learner"))) == 1
        begin = time.monotonic()
        node.link_down()
        saved = checkpoint(jobs)
        wait_for(
            lambda: jobs.status("learner")["attempt"] > 1 and checkpoint(jobs) > saved,
            4 * AWAY_SECONDS,
            "another checkpoint",
            lambda: jobs.status("learner"),
        )
        seconds = time.monotonic() - begin
        status = jobs.status("learner")
        measured(
            f"link down while training: a newer checkpoint after {seconds:.0f} s, attempt {status['attempt']}, "
            + ", ".join(f"{it['pod']} on {it['node'] or 'no node'}: {it['reason']}" for it in status["restarts"])
        )
        assert on(node, newest(jobs.pods("learner"))) == []
        assert status["attempt"] <= 3
        jobs.delete("learner")


def checkpoint(jobs: Jobs) -> int:
    """Step of the newest checkpoint that the status knows."""
    step: int = jobs.status("learner").get("checkpoint", {}).get("step", 0)
    return step


def test_a_drained_node_lets_the_trainer_save(
    node: Node, own_cluster: Cluster, place: Place, jobs: Jobs, trainer_image: str, tmp_path: Path, measured: Measured
) -> None:
    """Nothing but being told to stop saves a checkpoint here; it makes the disruption free of charge."""
    with shared_claim(place.cluster, place.namespace, "learner", tmp_path / "checkpoints"):
        workers = {"template": {"spec": spread("learner")}}
        jobs.apply(training("learner", jobs.namespace, trainer_image, every_steps=0, workers=workers))
        wait_for(lambda: step(jobs) > 0, 2 * PATIENCE, "the first steps", lambda: jobs.status("learner"))
        (drained,) = on(node, jobs.pods("learner"))
        begin = time.monotonic()
        try:
            selector = "--pod-selector=adts.dev/job=learner"
            flags = ["--delete-emptydir-data", "--ignore-daemonsets", selector, "--timeout=120s"]
            own_cluster.kubectl("drain", node.name, *flags, timeout=130)
            measured(f"drain of a node under training: {time.monotonic() - begin:.0f} s")
            status = jobs.wait("learner", "Running", 4 * AWAY_SECONDS)
        finally:
            own_cluster.kubectl("uncordon", node.name)
        (restart,) = (it for it in status["restarts"] if it["scope"] == "attempt")
        assert (restart["pod"], restart["node"]) == (drained["metadata"]["name"], node.name)
        assert (restart["exitCode"], restart["reason"]) == (66, "Disrupted")
        assert (status["attempt"], status.get("failures", 0)) == (2, 0)
        saved = status["checkpoint"]["step"]
        assert saved > 0
        wait_for(lambda: step(jobs) > saved, PATIENCE, "training goes on", lambda: jobs.status("learner"))
        measured(f"drain: training went on from step {saved} after {time.monotonic() - begin:.0f} s")
        jobs.delete("learner")


def step(jobs: Jobs) -> int:
    """Optimizer steps that the status knows."""
    known: int = jobs.status("learner").get("progress", {}).get("step", 0)
    return known
