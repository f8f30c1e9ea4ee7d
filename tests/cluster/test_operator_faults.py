"""What a job must survive of its operator: kills, a lost leader, a restarted or ill-tempered API server, deaf watches.

The jobs are shell scripts: their pods are real, but start in a moment. A `GangObserver` watches all the time.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adts_api.contract import LABEL_JOB_UID
from cluster.harness.access import Access
from cluster.harness.cluster import Cluster
from support.cluster_jobs import CHILDREN, PATIENCE, RUN_ON, Jobs, script, wait_for
from support.fault_proxy import NO_ANSWER, Fault, FaultProxy
from support.gang_observer import GangObserver
from support.operator_access import SHELL_IMAGE, Account, granted, new_namespace
from support.operator_process import OperatorProcess

KILLS = 20
LONGEST_MOMENT_SECONDS = 1.5
FAULTY_SHARE = 0.15
"""Of the writes that get a wrong answer before, and of those that get it after the server did what it was asked."""
LATENCY_SECONDS = 2.0
DROP_SECONDS = 0.5
FAILOVER_SECONDS = 20.0
STALE_SECONDS = 180.0
"""A watch without a bookmark for so long is told by /healthz."""

Measured = Callable[[str], None]
Start = Callable[..., OperatorProcess]


@pytest.fixture(scope="module")
def namespaces(cluster: Access) -> Iterator[tuple[str, str]]:
    """One to work in, and one of the operator that hears nothing."""
    with new_namespace(cluster, "faults") as namespace, new_namespace(cluster, "deaf") as silent:
        yield namespace, silent


@pytest.fixture(scope="module")
def account(
    cluster: Access, namespaces: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Account]:
    folder = tmp_path_factory.mktemp("account")
    with granted(cluster, folder, namespaces[0], {"watchNamespaces": list(namespaces)}) as account:
        yield account


class Deaf:
    """An operator whose watches stand still, and who waits until its /healthz says so."""

    def __init__(self, operator: OperatorProcess) -> None:
        self.operator = operator
        self.told_after: float | None = None
        """Seconds until it said so."""
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._wait, name="deaf", daemon=True)

    def _wait(self) -> None:
        begin = time.monotonic()
        while self.operator.get("/healthz") == 200:
            if self.stop.wait(1.0):
                return
        self.told_after = time.monotonic() - begin


@pytest.fixture(scope="module", autouse=True)
def deaf(account: Account, namespaces: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deaf]:
    """Begins with the first test, so that the last one does not wait for long."""
    folder = tmp_path_factory.mktemp("deaf")
    with FaultProxy(account.kubeconfig, folder) as between:
        found_out = Deaf(OperatorProcess(between.kubeconfig, folder, WATCH_NAMESPACES=namespaces[1]).start())
        between.is_deaf = True
        found_out.thread.start()
        yield found_out
        found_out.stop.set()
        found_out.thread.join()
        found_out.operator.kill()


@pytest.fixture(autouse=True)
def observer(cluster: Access, namespaces: tuple[str, str]) -> Iterator[GangObserver]:
    """Fails a test that went well otherwise if it saw what must not be."""
    with GangObserver(cluster.kubeconfig, namespaces[0]) as seen:
        yield seen
    assert seen.violations() == []


@pytest.fixture(autouse=True)
def refusals(account: Account, request: pytest.FixtureRequest) -> Iterator[None]:
    """RBAC refuses nothing, but while an API server starts: it answers before it has read the roles."""
    before = len(account.forbidden())
    yield
    if "own_cluster" not in request.fixturenames:
        assert account.forbidden()[before:] == []


@pytest.fixture
def jobs(cluster: Access, namespaces: tuple[str, str], observer: GangObserver) -> Iterator[Jobs]:
    """The jobs of the namespace; none is left for the next test, and nothing of them."""
    of_namespace = Jobs(cluster.kubectl, namespaces[0])
    yield of_namespace
    cluster.kubectl("-n", namespaces[0], "delete", "dtrain", "--all", "--timeout=60s", timeout=70)
    left = lambda: orphans(cluster, namespaces[0])  # noqa: E731  shown where it fails
    wait_for(lambda: not left(), PATIENCE, "nothing left of the jobs", left)


@pytest.fixture
def start(jobs: Jobs, account: Account, tmp_path: Path) -> Iterator[Start]:
    """Starts an operator for the namespace."""
    operators: list[OperatorProcess] = []

    def begin(kubeconfig: Path = account.kubeconfig, **settings: str) -> OperatorProcess:
        ours = {"WATCH_NAMESPACES": jobs.namespace, "NAMESPACE": jobs.namespace, "TRAINER_IMAGE": SHELL_IMAGE}
        operators.append(OperatorProcess(kubeconfig, tmp_path, **(ours | settings)))
        return operators[-1].start()

    yield begin
    for operator in operators:
        operator.kill()


@pytest.fixture
def proxy(account: Account, tmp_path: Path) -> Iterator[FaultProxy]:
    with FaultProxy(account.kubeconfig, tmp_path) as between:
        yield between


def flaky(name: str, jobs: Jobs, *, failures: int = 1, seconds: float = 0.5) -> dict[str, object]:
    """A job whose first attempts fail, and whose next one ends well."""
    code = f"""
trap 'exit 143' TERM
sleep {seconds} & wait $!
[ "$ADTS_ATTEMPT" -gt {failures} ] && exit 0
[ "$NODE_RANK" = 0 ] && exit 1
{RUN_ON}
"""
    return script(name, jobs.namespace, code)


def finish(jobs: Jobs, *names: str, failures: int = 1) -> None:
    """Waits until all ended well, with no attempt more than their script asks for."""
    for name in names:
        status = jobs.wait(name, "Succeeded", 3 * PATIENCE)
        assert status["attempt"] == failures + 1, json.dumps(status, indent=1)


def orphans(cluster: Access, namespace: str) -> list[str]:
    """Children of jobs that are gone."""
    living = {job["metadata"]["uid"] for job in cluster.items("dtrain", namespace)}
    children = cluster.items(CHILDREN, namespace, LABEL_JOB_UID)
    return [it["metadata"]["name"] for it in children if it["metadata"]["labels"][LABEL_JOB_UID] not in living]


def test_killed_at_random_moments(
    cluster: Access, jobs: Jobs, observer: GangObserver, start: Start, measured: Measured
) -> None:
    seed = int(os.environ.get("ADTS_TEST_SEED", time.time_ns() % 1_000_000))
    moments = random.Random(seed)
    begin = time.monotonic()
    operator = start()
    names = []
    for kill in range(KILLS):
        if kill % 2 == 0:
            names.append(f"job-{kill}")
            jobs.apply(flaky(names[-1], jobs))
        if kill % 5 == 0:
            jobs.apply(script(f"short-{kill}", jobs.namespace, RUN_ON))
        if kill % 5 == 3:
            cluster.kubectl("-n", jobs.namespace, "delete", "dtrain", f"short-{kill - 3}", "--wait=false")
        time.sleep(moments.uniform(0.0, LONGEST_MOMENT_SECONDS))
        operator.kill()
        operator.start()
    finish(jobs, *names)
    seconds = time.monotonic() - begin
    left = lambda: orphans(cluster, jobs.namespace)  # noqa: E731  shown where it fails
    wait_for(lambda: not left(), PATIENCE, "nothing left of the jobs that were deleted", left)
    measured(
        f"operator killed {KILLS} times (ADTS_TEST_SEED={seed}): {len(names)} jobs ended well after {seconds:.0f} s"
    )


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_another_operator_takes_over(
    how: str, cluster: Access, jobs: Jobs, observer: GangObserver, start: Start, measured: Measured
) -> None:
    leader = start(LEADER_ELECTION="true", POD_NAME="first")
    wait_for(lambda: is_leader(leader), PATIENCE, "the first leads", leader.tail)
    other = start(LEADER_ELECTION="true", POD_NAME="second")
    jobs.apply(script("before", jobs.namespace, RUN_ON))
    jobs.wait("before", "Running", PATIENCE)
    leader.kill() if how == "SIGKILL" else leader.stop()
    ended_at = time.monotonic()
    jobs.apply(flaky("after", jobs))
    wait_for(lambda: observer.attempts("after") > 0, 4 * FAILOVER_SECONDS, "the other acts", other.tail)
    seconds = time.monotonic() - ended_at
    measured(f"operator failover after {how}: {seconds:.1f} s until the other makes pods (aim: {FAILOVER_SECONDS:g})")
    if how == "SIGTERM":
        assert seconds < FAILOVER_SECONDS / 2, "the Lease was released: nobody waits for its end"
    finish(jobs, "after")
    assert (jobs.status("before")["phase"], jobs.status("before")["attempt"]) == ("Running", 1)


def is_leader(operator: OperatorProcess) -> bool:
    """Whether it says that it acts."""
    return re.search(r"^adts_leader 1(\.0)?$", operator.metrics(), re.MULTILINE) is not None


def test_the_api_server_restarts(
    own_cluster: Cluster, jobs: Jobs, observer: GangObserver, start: Start, measured: Measured
) -> None:
    operator = start()
    pid = operator.pid
    jobs.apply(flaky("running", jobs, seconds=8))
    jobs.wait("running", "Running", PATIENCE)
    jobs.apply(*(flaky(f"young-{number}", jobs) for number in range(3)))
    begin = time.monotonic()
    own_cluster.restart_api_server()
    back = time.monotonic()
    jobs.apply(flaky("later", jobs))
    wait_for(lambda: observer.attempts("later") > 0, PATIENCE, "pods after the restart", operator.tail)
    measured(
        f"API server restarted in {back - begin:.1f} s: "
        f"the operator acts again {time.monotonic() - back:.1f} s after it is ready"
    )
    finish(jobs, "running", "young-0", "young-1", "young-2", "later")
    assert operator.is_running
    assert operator.pid == pid
    wait_for(lambda: operator.get("/healthz") == 200, PATIENCE, "healthy", operator.tail)


@pytest.mark.parametrize("code", [409, 429, 500, NO_ANSWER], ids=lambda code: str(code or "no answer"))
def test_writes_that_fail(
    code: int, jobs: Jobs, observer: GangObserver, start: Start, proxy: FaultProxy, measured: Measured
) -> None:
    operator = start(proxy.kubeconfig)
    proxy.faults = (Fault(code, FAULTY_SHARE), Fault(code, FAULTY_SHARE, after=True))
    names = [f"job-{number}" for number in range(3)]
    jobs.apply(*(flaky(name, jobs) for name in names))
    finish(jobs, *names)
    assert operator.is_running
    faulty = proxy.counts[f"{code}"] + proxy.counts[f"{code} after"]
    assert faulty > 0
    measured(f"{faulty} writes answered {code or 'by a broken connection'}: all jobs ended well")


def test_watches_that_break(jobs: Jobs, observer: GangObserver, start: Start, proxy: FaultProxy) -> None:
    operator = start(proxy.kubeconfig)
    ended = threading.Event()

    def drop() -> None:
        while not ended.wait(DROP_SECONDS):
            proxy.drop_watches()

    dropping = threading.Thread(target=drop)
    dropping.start()
    try:
        jobs.apply(*(flaky(f"job-{number}", jobs) for number in range(3)))
        finish(jobs, "job-0", "job-1", "job-2")
    finally:
        ended.set()
        dropping.join()
    assert operator.is_running
    assert proxy.counts["dropped"] > 0


def test_a_slow_api_server(
    jobs: Jobs, observer: GangObserver, start: Start, proxy: FaultProxy, measured: Measured
) -> None:
    proxy.latency = LATENCY_SECONDS
    operator = start(proxy.kubeconfig, LEADER_ELECTION="true")
    begin = time.monotonic()
    jobs.apply(*(flaky(f"job-{number}", jobs) for number in range(3)))
    finish(jobs, "job-0", "job-1", "job-2")
    measured(f"every request {LATENCY_SECONDS:g} s late: 3 jobs of two attempts in {time.monotonic() - begin:.0f} s")
    assert operator.is_running
    assert operator.get("/healthz") == 200


@pytest.mark.parametrize("is_made_again", [False, True], ids=["deleted", "deleted and made again"])
def test_a_deletion_that_no_watch_tells(
    is_made_again: bool, cluster: Access, jobs: Jobs, observer: GangObserver, start: Start, proxy: FaultProxy
) -> None:
    operator = start(proxy.kubeconfig, RESYNC_SECONDS="5")
    jobs.apply(script("lost", jobs.namespace, RUN_ON), script("kept", jobs.namespace, RUN_ON))
    jobs.wait("lost", "Running", PATIENCE)
    jobs.wait("kept", "Running", PATIENCE)
    with proxy.deaf():
        jobs.delete("lost")
        jobs.wait_gone("lost")
        if is_made_again:
            jobs.apply(script("lost", jobs.namespace, RUN_ON))
    if is_made_again:
        jobs.wait("lost", "Running", PATIENCE)
    count = 2 if is_made_again else 1
    running = re.compile(rf'^adts_jobs{{phase="Running"}} {count}(\.0)?$', re.MULTILINE)
    wait_for(lambda: running.search(operator.metrics()), PATIENCE, "the operator knows", operator.metrics)
    assert jobs.status("kept")["attempt"] == 1
    assert len(jobs.pods("kept")) == 2
    made = [pod for pod in observer.pods.values() if pod.name.startswith("lost-")]
    assert len(made) == 2 * count, "no pod was made for the job that was deleted"


def test_watches_that_stand_still_are_told(deaf: Deaf, measured: Measured) -> None:
    wait_for(lambda: deaf.told_after, 2 * STALE_SECONDS, "/healthz fails", deaf.operator.tail)
    assert deaf.operator.get("/healthz") == 503
    measured(f"watches that deliver nothing: /healthz fails after {deaf.told_after:.0f} s (aim: {STALE_SECONDS:g})")
