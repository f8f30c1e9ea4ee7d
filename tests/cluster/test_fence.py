"""The fence reaches storage: a forgotten attempt trains on behind a cut link and never commits over the new one.

The folder of checkpoints is a claim that both nodes share. It is read from this machine all the time.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adts_api.contract import CONTAINER
from cluster.harness.cluster import Cluster
from cluster.harness.node import Node
from support.cluster_jobs import PATIENCE, wait_for
from support.operator_access import operating
from support.trainer_jobs import shared_claim, training

SAMPLE_SECONDS = 0.02
FENCED = "has taken over this folder from attempt 1"
"""What an old attempt says when it finds the lock of a newer one before a commit."""

Measured = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """The folder of checkpoints at one moment."""

    at: float
    owner: int
    """Attempt that holds the lock; 0 where there is none."""
    latest: str
    """Directory that `latest` names: `<step>-<attempt>`."""
    attempt: int
    """Attempt that wrote it."""


class FolderWatch:
    """Reads lock and `latest` many times a second; keeps what changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.samples = [Sample(time.monotonic(), 0, "", 0)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="folder-watch", daemon=True)

    def __enter__(self) -> FolderWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def last(self) -> Sample:
        return self.samples[-1]

    def claimed(self, attempt: int) -> Sample | None:
        """The first moment at which an attempt held the lock."""
        return next((sample for sample in self.samples if sample.owner == attempt), None)

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            # The lock first: a commit seen together with a new owner may have come just before it, never after.
            owner = _read(self._folder / "attempt.lock")
            latest = _read(self._folder / "latest")
            seen = (owner.get("attempt", 0), latest.get("directory", ""), latest.get("attempt", 0))
            if seen != (self.last.owner, self.last.latest, self.last.attempt):
                self.samples.append(Sample(time.monotonic(), *seen))


def _read(file: Path) -> dict[str, Any]:
    """Both files are replaced as a whole, so there is no half of one."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return content


@pytest.fixture
def cut_off(own_cluster: Cluster) -> Iterator[Node]:
    """The node whose link is cut; all is well again in the end."""
    node = own_cluster.nodes[0]
    yield node
    node.link_up()
    for each in own_cluster.nodes:
        own_cluster.kubectl("uncordon", each.name)
    own_cluster.wait_for_nodes()


@contextmanager
def only_on(cluster: Cluster, node: Node) -> Iterator[None]:
    """New pods go to this node."""
    others = [each for each in cluster.nodes if each is not node]
    for other in others:
        cluster.kubectl("cordon", other.name)
    yield
    for other in others:
        cluster.kubectl("uncordon", other.name)


def output(node: Node, pod: str) -> str:
    """What a pod's trainer printed, from the node's own disk: nobody can ask its kubelet."""
    files = (node.folder / "log").glob(f"*_{pod}_*/{CONTAINER}/*.log")
    return "\n".join(file.read_text(errors="replace") for file in files)


def containers(node: Node, pod: str) -> list[str]:
    """Containers of a pod that the node still has."""
    label = f'labels."io.kubernetes.pod.name"=={pod}'
    return node.containerd.ctr("containers", "ls", "--quiet", label).split()


def test_an_attempt_behind_a_cut_link_commits_nothing_more(
    own_cluster: Cluster, cut_off: Node, trainer_image: str, tmp_path: Path, measured: Measured
) -> None:
    folder = tmp_path / "checkpoints"
    here, there = own_cluster.nodes
    with (
        operating(own_cluster, tmp_path) as place,
        shared_claim(own_cluster, place.namespace, "fenced", folder),
        FolderWatch(folder) as watch,
    ):
        jobs = place.jobs
        with only_on(own_cluster, here):
            jobs.apply(training("fenced", place.namespace, trainer_image))
            wait_for(lambda: watch.last.latest, 2 * PATIENCE, "a checkpoint", lambda: jobs.status("fenced"))
        old = [pod["metadata"]["name"] for pod in jobs.pods("fenced")]
        assert {pod["spec"]["nodeName"] for pod in jobs.pods("fenced")} == {here.name}

        with only_on(own_cluster, there):
            here.link_down()
            before = watch.last
            wait_for(lambda: watch.last != before, PATIENCE, "the old attempt trains on", lambda: output(here, old[0]))
            names = [f"pod/{name}" for name in old]
            own_cluster.kubectl("-n", place.namespace, "delete", *names, "--force", "--grace-period=0")
            wait_for(lambda: watch.claimed(2), 2 * PATIENCE, "attempt 2 holds the lock", lambda: jobs.status("fenced"))
        assert {pod["spec"]["nodeName"] for pod in jobs.pods("fenced")} == {there.name}
        said = lambda: [name for name in old if FENCED in output(here, name)]  # noqa: E731  shown where it fails
        seconds = wait_for(said, PATIENCE, "the old attempt finds the fence", lambda: output(here, old[0]))
        measured(f"fence: the old attempt gave up {seconds:.1f} s after the new one was seen to hold the lock")
        wait_for(lambda: watch.last.attempt == 2, 2 * PATIENCE, "attempt 2 saves", lambda: jobs.status("fenced"))

        here.link_up()
        gone = lambda: not any(containers(here, name) for name in old)  # noqa: E731
        wait_for(gone, 2 * PATIENCE, "the node removes the old pods")
        back = watch.last
        wait_for(lambda: watch.last.latest != back.latest, PATIENCE, "attempt 2 trains on", lambda: watch.last)
        assert jobs.status("fenced")["attempt"] == 2

        claim = watch.claimed(2)
        assert claim is not None
        after = [sample for sample in watch.samples if sample.at > claim.at]
        assert [sample for sample in after if sample.attempt != 2 and sample.latest != claim.latest] == []
        assert [sample for sample in after if sample.owner != 2] == []
        steps = [int(sample.latest.split("-")[0]) for sample in after]
        assert steps == sorted(steps), "attempt 2 went on from what attempt 1 had saved"
        jobs.delete("fenced")
