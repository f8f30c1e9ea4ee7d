"""The cluster that these tests share: our own two nodes, or the one that ADTS_TEST_KUBECONFIG names.

A machine that cannot carry a cluster skips them all, with one reason.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from cluster.harness import images, machine, node_store
from cluster.harness.access import Access
from cluster.harness.binaries import binaries
from cluster.harness.cluster import Cluster
from cluster.harness.layout import INDEXES, Layout
from cluster.harness.process import ClusterError, wait_until

GIVEN = "ADTS_TEST_KUBECONFIG"
TRAINER_IMAGE = os.environ.get("ADTS_TEST_TRAINER_IMAGE", "docker.io/adts/trainer:test")
OPERATOR_IMAGE = os.environ.get("ADTS_TEST_OPERATOR_IMAGE", "docker.io/adts/operator:test")
NAMESPACE_GONE_SECONDS = 90
LONGEST = (
    "test_node_faults",
    "test_operator_faults",
    "test_life",
    "test_gang",
    "test_harness",
    "test_parallel",
    "test_docs",
    "test_compression",
    "test_leader",
    "test_fence",
    "test_training",
)
"""Files that take minutes."""
TEST_SECONDS = 300
"""For a test that names no timeout of its own."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Access]:
    """A cluster with the project's two images on its nodes."""
    given = os.environ.get(GIVEN)
    if given:
        yield _given_cluster(Path(given))
        return
    machine.require()
    built = [images.operator_image(), images.trainer_image()]
    node_store.refresh(built)
    with Cluster() as own:
        for image in built:
            own.load_image(image)
        yield own


@pytest.fixture(scope="session")
def own_cluster(cluster: Access) -> Cluster:
    """The cluster, where the test breaks nodes, links or the API server: only our own may be broken."""
    if not isinstance(cluster, Cluster):
        pytest.skip(f"breaks nodes: not with a cluster given in {GIVEN}")
    return cluster


@pytest.fixture
def kubectl(cluster: Access) -> Callable[..., str]:
    """Runs kubectl as admin and returns what it printed."""
    return cluster.kubectl


@pytest.fixture
def namespace(cluster: Access, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test; afterwards it must go, with all that is in it."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    name = f"{words[:40].strip('-')}-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    # the first pods of a namespace are refused until the controller manager has made its service account
    assert wait_until(lambda: cluster.get("serviceaccount", "default", name) is not None, 30)
    yield name
    # pods that do not heed SIGTERM would use up their grace
    cluster.kubectl("delete", "pods", "--all", "-n", name, "--grace-period=1", "--wait=false")
    cluster.kubectl("delete", "namespace", name, f"--timeout={NAMESPACE_GONE_SECONDS}s", timeout=100)


@pytest.fixture(scope="session")
def trainer_image(cluster: Access) -> str:
    """Name of the trainer's image, present on every node."""
    return TRAINER_IMAGE


@pytest.fixture(scope="session")
def operator_image(cluster: Access) -> str:
    """Name of the operator's image, present on every node."""
    return OPERATOR_IMAGE


@pytest.fixture(scope="session")
def lower_contract_image(own_cluster: Cluster) -> str:
    """Name of a trainer's image whose contract version is one lower, present on every node."""
    image = images.lower_contract_image()
    own_cluster.load_image(image)
    return image.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips all tests of a cluster where none can be, and begins with the files that take longest, so that two workers
    end at about the same time."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    ours = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    reason = machine.obstacle() if ours and not os.environ.get(GIVEN) else None
    for item in ours:
        if reason and "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=reason))
        marker = item.get_closest_marker("timeout")
        seconds = marker.args[0] if marker and marker.args else TEST_SECONDS
        item.add_marker(pytest.mark.timeout(seconds), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds to a failure what the cluster looked like, before its namespace is deleted."""
    report = yield
    arguments = getattr(item, "funcargs", {})
    access = arguments.get("cluster") or arguments.get("own_cluster")
    if report.when == "call" and report.failed and isinstance(access, Access):
        report.sections.append(("the cluster at the failure", _describe(access, arguments.get("namespace"))))
    return report


def _given_cluster(kubeconfig: Path) -> Access:
    """One that `make cluster-up` started is ours to break, and gets the images of the present sources."""
    if not kubeconfig.exists():
        raise ClusterError(f"{GIVEN}: no file {kubeconfig}; name the kubeconfig of a running cluster, or unset it")
    for layout in map(Layout, INDEXES):
        if layout.kubeconfig.exists() and layout.kubeconfig.samefile(kubeconfig):
            own = Cluster(layout)
            for image in (images.operator_image(), images.trainer_image()):
                own.load_image(image)
            return own
    found = machine.program("kubectl")
    return Access(kubeconfig, Path(found) if found else binaries() / "kubectl")


def _describe(access: Access, namespace: str | None) -> str:
    """Pods, events, jobs and the operator's last words; what cannot be read is left out."""
    scope = ["-n", namespace] if namespace else ["-A"]
    questions = [
        ["get", "pods", "-A", "-o", "wide"],
        ["get", "distributedtrainings", *scope, "-o", "yaml"],
        ["get", "events", *scope, "--sort-by=.lastTimestamp"],
        ["logs", "-A", "-l", "app.kubernetes.io/name=distributed-training-operator", "--tail=40", "--prefix"],
    ]
    answers = []
    for question in questions:
        try:
            answers.append(f"$ kubectl {' '.join(question)}\n{access.kubectl(*question, timeout=20, check=False)}")
        except ClusterError as error:
            answers.append(str(error))
    return "\n".join(answers)
