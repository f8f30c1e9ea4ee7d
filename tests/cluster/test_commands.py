"""Any script in pods: it finds its peers by the environment alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from cluster.harness.cluster import Cluster
from support.cluster_jobs import PATIENCE, RUN_ON, Jobs, manifest, script, wait_for
from support.operator_access import operating

Measured = Callable[[str], None]


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    with operating(cluster, tmp_path_factory.mktemp("commands")) as place:
        yield place.jobs


def test_a_command_finds_its_peers(jobs: Jobs, measured: Measured) -> None:
    resolve = "import os,socket; print('lead', socket.gethostbyname(os.environ['MASTER_ADDR']))"
    code = f"""
env | grep -E '^(RANK|LOCAL_|WORLD|MASTER|NNODES|NODE_|PET_|ADTS_)'
begin=$(date +%s)
until python3 -c "{resolve}" 2>/dev/null; do sleep 0.5; done
echo "took $(( $(date +%s) - begin ))"
{RUN_ON}
"""
    jobs.apply(script("peers", jobs.namespace, code, runPolicy={"gracePeriodSeconds": 5}))
    jobs.wait("peers", "Running", PATIENCE)
    outputs = []
    for rank in (0, 1):
        output: Callable[[], str] = lambda rank=rank: jobs.output(f"peers-{rank}-1")  # type: ignore[misc]  # noqa: E731
        wait_for(lambda output=output: "took" in output(), PATIENCE, "the lead's name", output)  # type: ignore[misc]
        outputs.append(output())
    lead = next(pod for pod in jobs.pods("peers") if pod["metadata"]["name"] == "peers-0-1")
    for rank, text in enumerate(outputs):
        values = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
        assert f"lead {lead['status']['podIP']}" in text
        assert values["RANK"] == values["NODE_RANK"] == values["PET_NODE_RANK"] == str(rank)
        assert values["WORLD_SIZE"] == values["NNODES"] == values["PET_NNODES"] == "2"
        assert values["LOCAL_RANK"] == "0"
        assert values["LOCAL_WORLD_SIZE"] == values["PET_NPROC_PER_NODE"] == "1"
        assert values["MASTER_ADDR"] == values["PET_MASTER_ADDR"] == "peers-0-1.peers"
        assert values["MASTER_PORT"] == values["PET_MASTER_PORT"]
        assert (values["ADTS_JOB_NAME"], values["ADTS_ATTEMPT"]) == ("peers", "1")
        measured(f"rank {rank} resolved MASTER_ADDR after {text.split('took ')[1].split()[0]} s")


RENDEZVOUS = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1])
dist.all_reduce(total)
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: the sum is {total.item()}", flush=True)
dist.destroy_process_group()
"""
"""A user's script that knows nothing of us: torch itself reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."""


@pytest.mark.parametrize(
    ("command", "processes"),
    [(["torchrun", "--no-python", "python3", "-c", RENDEZVOUS], 2), (["python3", "-c", RENDEZVOUS], 1)],
    ids=["torchrun", "script"],
)
def test_a_users_training_needs_no_flag(
    command: list[str], processes: int, jobs: Jobs, trainer_image: str, measured: Measured
) -> None:
    name = f"users-{processes}"
    workers = {"replicas": 2, "processesPerWorker": processes}
    spec = {"image": trainer_image, "command": command, "workers": workers}
    begin = time.monotonic()
    jobs.apply(manifest(name, jobs.namespace, spec))
    status = jobs.wait(name, "Succeeded", 2 * PATIENCE)
    measured(f"{command[0]} on two nodes, from apply to its end: {time.monotonic() - begin:.0f} s")
    assert status["attempt"] == 1, status.get("restarts")
    world = 2 * processes
    printed = "".join(jobs.output(pod["metadata"]["name"]) for pod in jobs.pods(name))
    for rank in range(world):
        assert f"rank {rank} of {world}: the sum is {world * (world + 1) // 2}" in printed
