"""Leader election on a real API server: two contenders, each a process; never do both act."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from adts_operator.cluster.api import Api, ApiError, Object, collection
from adts_operator.leader import DURATION, RENEW_DEADLINE
from cluster.harness.access import Access
from support.fault_proxy import NO_ANSWER, Fault, FaultProxy

PATIENCE = 80.0
"""Four times the 20 seconds that a failover may take: the machine is shared."""
NAMESPACE = "default"
CONTENDER = Path(__file__).parents[1] / "support" / "leader_contender.py"


class Contender:
    """A process that acts while it leads."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.acts: list[float] = []
        self.words: set[str] = set()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            self.words.add(said["word"])
            if said["word"] == "acts":
                self.acts.append(said["at"])

    async def until_acting(self) -> float:
        """When it began to act."""
        async with asyncio.timeout(PATIENCE):
            while not self.acts:
                await asyncio.sleep(0.05)
        return self.acts[0]

    async def until_standing_by(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while "stands by" not in self.words:
                await asyncio.sleep(0.05)

    async def until_ended(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await self._reading
        return code

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.until_ended()


@pytest.fixture
async def api(cluster: Access) -> AsyncIterator[Api]:
    connection = await Api.connect(kubeconfig=str(cluster.kubeconfig))
    yield connection
    await connection.close()


@pytest.fixture
async def lease_name(api: Api) -> AsyncIterator[str]:
    """A Lease of this test alone."""
    name = f"leader-{uuid.uuid4().hex[:8]}"
    yield name
    await api.delete(path_of(name))


@pytest.fixture
def proxy(cluster: Access, tmp_path: Path) -> Iterator[FaultProxy]:
    """Stands between one contender and the API server."""
    with FaultProxy(cluster.kubeconfig, tmp_path) as running:
        yield running


Start = Callable[..., Awaitable[Contender]]


@pytest.fixture
async def start(cluster: Access, lease_name: str) -> AsyncIterator[Start]:
    """Starts a contender."""
    contenders: list[Contender] = []

    async def begin(kubeconfig: Path = cluster.kubeconfig, owner: Object | None = None) -> Contender:
        command = [sys.executable, str(CONTENDER), str(kubeconfig), NAMESPACE, lease_name, json.dumps(owner)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        contenders.append(Contender(process))
        return contenders[-1]

    yield begin
    for contender in contenders:
        await contender.kill()


@pytest.fixture
async def pair(start: Start) -> tuple[Contender, Contender]:
    """One that acts and one that stands by."""
    leader = await start()
    await leader.until_acting()
    other = await start()
    await other.until_standing_by()
    return leader, other


async def until_lease(api: Api, lease_name: str, is_so: Callable[[Object | None], bool]) -> None:
    """Waits for a state of the Lease; None: it is not there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                lease = await api.get(path_of(lease_name))
            except ApiError as error:
                if error.status != 404:
                    raise
                lease = None
            if is_so(lease):
                return
            await asyncio.sleep(0.2)


def path_of(lease_name: str) -> str:
    return collection("leases", NAMESPACE, lease_name)


def holder(lease: Object | None) -> str:
    return (lease or {}).get("spec", {}).get("holderIdentity") or ""


async def test_another_takes_over_from_a_leader_that_was_killed(
    pair: tuple[Contender, Contender], measured: Callable[[str], None]
) -> None:
    leader, other = pair
    assert not other.acts
    killed_at = time.monotonic()
    leader.process.kill()
    seconds = await other.until_acting() - killed_at
    measured(f"leader failover after SIGKILL: {seconds:.1f} s (aim: 20)")
    assert max(leader.acts) < min(other.acts)


async def test_a_leader_that_is_told_to_stop_hands_over_at_once(
    pair: tuple[Contender, Contender], api: Api, lease_name: str, measured: Callable[[str], None]
) -> None:
    leader, other = pair
    stopped_at = time.monotonic()
    leader.process.terminate()
    assert await leader.until_ended() == 0
    seconds = await other.until_acting() - stopped_at
    measured(f"leader failover after SIGTERM: {seconds:.1f} s")
    assert seconds < DURATION, "it did not wait for the Lease to run out"
    assert max(leader.acts) < min(other.acts)
    lease = await api.get(path_of(lease_name))
    assert lease["spec"]["leaseTransitions"] == 1


async def test_a_lease_that_was_deleted_is_made_again_by_its_holder(
    pair: tuple[Contender, Contender], api: Api, lease_name: str
) -> None:
    leader, other = pair
    before = await api.get(path_of(lease_name))
    await api.delete(path_of(lease_name))
    await until_lease(api, lease_name, lambda lease: lease is not None)
    assert holder(await api.get(path_of(lease_name))) == holder(before)
    so_far = len(leader.acts)
    await asyncio.sleep(DURATION + 2)
    assert len(leader.acts) > so_far
    assert leader.process.returncode is None
    assert not other.acts


async def test_a_leader_whose_lease_another_took_ends_at_once(
    pair: tuple[Contender, Contender], api: Api, lease_name: str
) -> None:
    leader, other = pair
    while True:
        lease = await api.get(path_of(lease_name))
        lease["spec"]["holderIdentity"] = "somebody"
        try:
            await api.replace(path_of(lease_name), lease)
            break
        except ApiError as error:
            if error.status != 409:
                raise
    taken_at = time.monotonic()
    assert await leader.until_ended() == 1
    assert max(leader.acts) - taken_at < RENEW_DEADLINE
    await other.until_acting()
    assert min(other.acts) - taken_at >= DURATION - 1, "somebody may still lead"


async def test_a_leader_that_is_cut_off_ends_before_another_leads(
    proxy: FaultProxy, start: Start, measured: Callable[[str], None]
) -> None:
    leader = await start(proxy.kubeconfig)
    await leader.until_acting()
    other = await start()
    await other.until_standing_by()
    cut_at = time.monotonic()
    proxy.latency = 3600.0
    assert await leader.until_ended() == 1
    ended_at = time.monotonic()
    began_at = await other.until_acting()
    assert max(leader.acts) < ended_at < began_at
    measured(f"leader cut off: ended after {ended_at - cut_at:.1f} s, another led after {began_at - cut_at:.1f} s")


def every_fourth_renewal() -> Callable[[str, str], bool]:
    renewals = itertools.count(1)
    return lambda method, path: method == "PUT" and next(renewals) % 4 == 0


@pytest.mark.parametrize(
    ("latency", "faults"),
    [
        pytest.param(2.0, (), id="every answer takes two seconds"),
        pytest.param(
            0.0,
            (
                Fault(500, hits=every_fourth_renewal(), after=True),
                Fault(409, hits=every_fourth_renewal()),
                Fault(429, hits=every_fourth_renewal()),
                Fault(NO_ANSWER, hits=every_fourth_renewal()),
            ),
            id="answers are lost, renewals refused",
        ),
    ],
)
async def test_a_leader_goes_on_leading_when(
    latency: float, faults: tuple[Fault, ...], proxy: FaultProxy, start: Start
) -> None:
    proxy.latency = latency
    leader = await start(proxy.kubeconfig)
    began_at = await leader.until_acting()
    other = await start()
    proxy.faults = faults
    await asyncio.sleep(DURATION + 4)
    assert leader.process.returncode is None
    assert max(leader.acts) - began_at > DURATION
    assert not other.acts


async def test_a_leader_whose_event_loop_is_blocked_ends_before_another_leads(
    pair: tuple[Contender, Contender],
) -> None:
    leader, other = pair
    leader.process.send_signal(signal.SIGUSR1)
    assert await leader.until_ended() == 1
    ended_at = time.monotonic()
    assert ended_at < await other.until_acting()


async def test_a_leader_that_was_frozen_does_not_act_again(pair: tuple[Contender, Contender]) -> None:
    leader, other = pair
    leader.process.send_signal(signal.SIGSTOP)
    await other.until_acting()
    other.process.terminate()
    assert await other.until_ended() == 0, "it released the Lease, which is free now"
    leader.process.send_signal(signal.SIGCONT)
    assert await leader.until_ended() == 1
    assert max(leader.acts) < min(other.acts)


async def test_the_lease_goes_with_the_pod_of_its_last_holder(start: Start, api: Api, lease_name: str) -> None:
    pod = await api.create(collection("pods", NAMESPACE), waiting_pod(lease_name))
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    leader = await start(owner=owner)
    await leader.until_acting()
    leader.process.terminate()
    assert await leader.until_ended() == 0
    await until_lease(api, lease_name, lambda lease: lease is not None and not holder(lease))
    await api.delete(collection("pods", NAMESPACE, lease_name), grace_seconds=0)
    await until_lease(api, lease_name, lambda lease: lease is None)


def waiting_pod(name: str) -> Object:
    """A pod that no node takes."""
    return {
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"adts.dev/none": "none"},
            "containers": [{"name": "operator", "image": "docker.io/adts/operator:test"}],
        },
    }
