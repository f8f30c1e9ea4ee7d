"""Names behind the stock cache of CoreDNS: a new attempt finds its own lead, and never the old one.

A name that somebody asked for before it had an address is remembered as unknown for the cache's 30 s. The name of a
lead carries its attempt, so an answer that is remembered is never the old lead's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.harness.access import Access
from support.cluster_jobs import PATIENCE, RUN_ON, Jobs, attempt_of, script, wait_for
from support.operator_access import Place, operating
from support.trainer_jobs import shared_claim, training

BOUND_SECONDS = 35.0
"""The TTL of CoreDNS's cache and 5 s."""
FOLLOWERS = 2

LEAD = """
import os, socket
server = socket.create_server(("", int(os.environ["MASTER_PORT"])))
while True:
    peer, _ = server.accept()
    peer.sendall(os.environ["ADTS_POD_NAME"].encode())
    peer.close()
"""
FOLLOWER = """
import os, socket, time
begin = time.monotonic()
while True:
    try:
        with socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), 2) as lead:
            name = lead.recv(100).decode()
        break
    except OSError:
        time.sleep(0.1)
print(f"reached {name} after {time.monotonic() - begin:.1f} s", flush=True)
"""
# The lead does not listen to SIGTERM: the old one goes on answering as long as it can.
CODE = f"""
[ "$NODE_RANK" = 0 ] && exec python3 -c '{LEAD}'
python3 -c '{FOLLOWER}'
{RUN_ON}
"""
ASK = "import socket; print(socket.gethostbyname('{host}'))"
UNKNOWN = "nobody has that name"

Measured = Callable[[str], None]


@pytest.fixture(scope="module")
def place(cluster: Access, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with operating(cluster, tmp_path_factory.mktemp("dns")) as running:
        yield running


@pytest.fixture
def jobs(place: Place) -> Jobs:
    return place.jobs


def ask_too_early(jobs: Jobs, pod: str, host: str) -> None:
    """Lets a pod ask for a name that has no address yet: the cache learns that there is no such name."""
    said = jobs.execute(pod, f'python3 -c "{ASK.format(host=host)}" 2>/dev/null || echo {UNKNOWN}')
    assert said.strip() == UNKNOWN


def reached(jobs: Jobs, pod: str, patience: float) -> tuple[str, float]:
    """Which lead a follower reached, and after how many seconds."""
    said: list[str] = []

    def has_said() -> bool:
        said[:] = re.findall(r"reached (\S+) after (\S+) s", jobs.output(pod))[-1:] or said[:0]
        return bool(said)

    wait_for(has_said, patience, f"{pod} reaches its lead", lambda: jobs.output(pod))
    (lead, seconds), *_ = said
    return lead, float(seconds)


def runs(jobs: Jobs, name: str, attempt: int) -> bool:
    status = jobs.status(name)
    return (status.get("attempt"), status.get("phase")) == (attempt, "Running")


def test_followers_find_the_new_lead_only(place: Place, jobs: Jobs, measured: Measured) -> None:
    jobs.apply(script("found", jobs.namespace, CODE, replicas=1 + FOLLOWERS))
    jobs.wait("found", "Running", PATIENCE)
    for follower in range(1, 1 + FOLLOWERS):
        lead, seconds = reached(jobs, f"found-{follower}-1", 4 * BOUND_SECONDS)
        assert lead == "found-0-1"
        measured(f"DNS: follower {follower} of the first attempt reached its lead after {seconds:.1f} s")
    ask_too_early(jobs, "found-1-1", "found-0-2.found")
    place.cluster.kubectl("-n", jobs.namespace, "delete", "pod", "found-0-1", "--force", "--grace-period=0")
    wait_for(lambda: runs(jobs, "found", 2), PATIENCE, "the next attempt", lambda: jobs.status("found"))
    for follower in range(1, 1 + FOLLOWERS):
        lead, seconds = reached(jobs, f"found-{follower}-2", 4 * BOUND_SECONDS)
        assert lead == "found-0-2"
        measured(
            f"DNS: follower {follower} of the next attempt, which asked for a name that the cache holds for unknown, "
            f"reached the new lead after {seconds:.1f} s (bound: {BOUND_SECONDS:g})"
        )
        assert seconds <= BOUND_SECONDS
    jobs.delete("found")


def test_the_trainer_finds_the_new_lead(
    place: Place, jobs: Jobs, trainer_image: str, tmp_path: Path, measured: Measured
) -> None:
    with shared_claim(place.cluster, place.namespace, "learner", tmp_path / "checkpoints"):
        jobs.apply(training("learner", jobs.namespace, trainer_image))
        begin = time.monotonic()
        wait_for(lambda: step(jobs) > 0, 2 * PATIENCE, "the first steps", lambda: jobs.status("learner"))
        first = time.monotonic() - begin
        ask_too_early(jobs, "learner-1-1", "learner-0-2.learner")
        place.cluster.kubectl("-n", jobs.namespace, "delete", "pod", "learner-0-1", "--force", "--grace-period=0")
        begin = time.monotonic()
        wait_for(lambda: runs(jobs, "learner", 2), 4 * BOUND_SECONDS, "training", lambda: jobs.status("learner"))
        measured(
            f"DNS: the trainer ran {time.monotonic() - begin:.0f} s after its lead pod was deleted, with the name of "
            f"the new one held for unknown (the first start took {first:.0f} s)"
        )
        assert {attempt_of(pod) for pod in jobs.pods("learner") if "deletionTimestamp" not in pod["metadata"]} == {2}
        jobs.delete("learner")


def step(jobs: Jobs) -> int:
    """Optimizer steps that the status knows."""
    known: int = jobs.status("learner").get("progress", {}).get("step", 0)
    return known
