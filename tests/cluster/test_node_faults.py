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
RETURN_SECONDS = 60.0
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


def test_a_trainer_out_of_memory(place: Place, jobs: Jobs, trainer_image: str, tmp_path: Path) -> None:
    """The launcher lives and tells; the second time at the same step nothing would change a third time."""
    with shared_claim(place.cluster, place.namespace, "large", tmp_path):
        container = {"name": "trainer", "resources": {"limits": {"memory": "900Mi"}}}
        large = training(
            "large", jobs.namespace, trainer_image, workers={"template": {"spec": {"containers": [container]}}}
        )
        large["spec"]["model"]["hiddenSize"] = 12_000
        jobs.apply(large)
        status = jobs.wait("large", "Failed", 4 * PATIENCE)
        (restart,) = (it for it in status["restarts"] if it["scope"] == "attempt")
        assert (restart["exitCode"], restart["reason"]) == (71, "OutOfMemory")
        assert restart["node"] in ("n1", "n2")
        assert "the container's peak was" in restart["message"]
        failed = jobs.condition("large", "Failed")
        assert failed["reason"] == "PermanentFailure"
        assert "out of memory twice at step 0" in failed["message"]
        assert "large-" in failed["message"]
        jobs.delete("large")


def test_a_node_without_its_kubelet(node: Node, jobs: Jobs, measured: Measured) -> None:
    jobs.apply(script("far", jobs.namespace, RUN_ON, workers={"template": {"spec": spread("far")}}))
    jobs.wait("far", "Running", PATIENCE)
    (lost,) = on(node, jobs.pods("far"))
    begin = time.monotonic()
    node.stop_kubelet()
    wait_for_attempt(jobs, "far", 2, 4 * AWAY_SECONDS)
    measured(f"kubelet stopped: the next attempt begins after {time.monotonic() - begin:.0f} s (aim: {AWAY_SECONDS:g})")
    jobs.wait("far", "Running", PATIENCE)
    replaced = was_replaced(jobs, "far", lost, node)
    node.start_kubelet()
    wait_for_return(jobs, "far", replaced, "kubelet started", measured)


def test_a_node_without_its_link(
    node: Node, place: Place, jobs: Jobs, trainer_image: str, tmp_path: Path, measured: Measured
) -> None:
    with shared_claim(place.cluster, place.namespace, "learner", tmp_path):
        jobs.apply(
            training("learner", jobs.namespace, trainer_image, workers={"template": {"spec": spread("learner")}})
        )
        wait_for_checkpoint(jobs, "learner", 1)
        (lost,) = on(node, jobs.pods("learner"))
        begin = time.monotonic()
        node.link_down()
        wait_for_attempt(jobs, "learner", 2, 4 * AWAY_SECONDS)
        measured(f"link down: the next attempt begins after {time.monotonic() - begin:.0f} s (aim: {AWAY_SECONDS:g})")
        wait_for_checkpoint(jobs, "learner", 2)
        measured(f"link down: the next attempt saves a checkpoint after {time.monotonic() - begin:.0f} s")
        replaced = was_replaced(jobs, "learner", lost, node)
        node.link_up()
        wait_for_return(jobs, "learner", replaced, "link up", measured)
        jobs.delete("learner")


def wait_for_attempt(jobs: Jobs, name: str, attempt: int, seconds: float) -> None:
    is_so = lambda: jobs.status(name).get("attempt") == attempt  # noqa: E731  named for the call below
    wait_for(is_so, seconds, f"attempt {attempt} of {name}", lambda: jobs.status(name))


def wait_for_checkpoint(jobs: Jobs, name: str, attempt: int) -> None:
    """Until the status knows a checkpoint that this attempt wrote."""
    path = lambda: jobs.status(name).get("checkpoint", {}).get("path", "")  # noqa: E731  named for the call below
    wait_for(lambda: path().endswith(f"-{attempt}"), 2 * PATIENCE, "a checkpoint", lambda: jobs.status(name))


def wait_for_return(jobs: Jobs, name: str, replaced: list[str], what: str, measured: Measured) -> None:
    """Until a node that came back has given up its old pod, and only it."""
    gone = lambda: names(jobs.pods(name)) == replaced  # noqa: E731  named for the call below
    seconds = wait_for(gone, 4 * RETURN_SECONDS, "the old pod is gone")
    measured(f"{what}: the old pod is gone after {seconds:.0f} s (aim: {RETURN_SECONDS:g})")
    assert jobs.status(name)["phase"] == "Running"


def was_replaced(jobs: Jobs, name: str, lost: dict[str, Any], node: Node) -> list[str]:
    """Checks that the gang runs elsewhere while the lost pod is still there, and why; the names of the new pods."""
    (restart,) = (it for it in jobs.status(name)["restarts"] if it["scope"] == "attempt")
    expected = (lost["metadata"]["name"], node.name, "NodeNotReady")
    assert (restart["pod"], restart["node"], restart["reason"]) == expected
    assert any(event["reason"] == "WorkerLost" and node.name in event["message"] for event in jobs.events(name))
    pods = jobs.pods(name)
    (stuck,) = on(node, pods)
    assert stuck["metadata"]["name"] == lost["metadata"]["name"]
    assert "deletionTimestamp" in stuck["metadata"]
    new = [pod for pod in pods if attempt_of(pod) == 2]
    assert len(new) == 2
    return names(new)


def test_a_drained_node_lets_the_trainer_save(
    node: Node, own_cluster: Cluster, place: Place, jobs: Jobs, trainer_image: str, tmp_path: Path, measured: Measured
) -> None:
    """Nothing but being told to stop saves a checkpoint here; it makes the disruption free of charge."""
    with shared_claim(place.cluster, place.namespace, "drained", tmp_path):
        workers = {"template": {"spec": spread("drained")}}
        jobs.apply(training("drained", jobs.namespace, trainer_image, every_steps=0, workers=workers))
        wait_for(lambda: step(jobs, "drained") > 0, 2 * PATIENCE, "the first steps", lambda: jobs.status("drained"))
        (evicted,) = on(node, jobs.pods("drained"))
        begin = time.monotonic()
        try:
            selector = "--pod-selector=adts.dev/job=drained"
            flags = ["--delete-emptydir-data", "--ignore-daemonsets", selector, "--timeout=120s"]
            own_cluster.kubectl("drain", node.name, *flags, timeout=130)
            measured(f"drain of a node under training: {time.monotonic() - begin:.0f} s")
            wait_for_attempt(jobs, "drained", 2, 4 * AWAY_SECONDS)
            status = jobs.wait("drained", "Running", PATIENCE)
        finally:
            own_cluster.kubectl("uncordon", node.name)
        (restart,) = (it for it in status["restarts"] if it["scope"] == "attempt")
        assert (restart["pod"], restart["node"]) == (evicted["metadata"]["name"], node.name)
        assert (restart["exitCode"], restart["reason"]) == (66, "Disrupted")
        assert (status["attempt"], status.get("failures", 0)) == (2, 0)
        saved = status["checkpoint"]["step"]
        assert saved > 0
        wait_for(lambda: step(jobs, "drained") > saved, PATIENCE, "training goes on", lambda: jobs.status("drained"))
        measured(f"drain: training went on from step {saved} after {time.monotonic() - begin:.0f} s")
        jobs.delete("drained")


def step(jobs: Jobs, name: str) -> int:
    """Optimizer steps that the status knows."""
    known: int = jobs.status(name).get("progress", {}).get("step", 0)
    return known
