"""The operator against a real API server, scheduler and garbage collector; KWOK nodes stand in for kubelets.

`make bench-operator` prints the table; `--write` puts it into docs/benchmarks/operator.md. Nothing is asserted: the
machine is shared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adts_api.contract import LABEL_ATTEMPT, LABEL_JOB_UID, LABEL_MANAGED_BY, MANAGED_BY
from adts_operator.cluster.api import Api, ApiError, collection
from cluster.harness.cluster import Cluster
from cluster.harness.kwok import Kwok
from perf.lead_stub import LeadStub
from support.operator_process import OperatorProcess

REPOSITORY = Path(__file__).parents[2]
TABLE = REPOSITORY / "docs/benchmarks/operator.md"
NAMESPACE = "default"
NODES = 100
CREATORS = 20
FLOOR_CREATORS = 50
WAVE = 50
LONGEST_SECONDS = 600.0
SELECTOR = f"{LABEL_MANAGED_BY}={MANAGED_BY},{LABEL_JOB_UID}"
CALLS = re.compile(r'^adts_api_requests_total\{code="(\d+)",resource="([^"]+)",verb="([A-Z]+)"\} ([\d.e+]+)$', re.M)
BUCKETS = re.compile(r'^adts_reconcile_seconds_bucket\{le="([^"]+)"\} ([\d.e+]+)$', re.M)


@dataclass
class Pods:
    """What a watch of our pods has seen."""

    created: dict[str, int] = field(default_factory=dict)
    """Attempt by pod."""
    running: set[str] = field(default_factory=set)

    def of_attempt(self, attempt: int) -> set[str]:
        return {name for name, of in self.created.items() if of == attempt}

    async def follow(self, api: Api) -> None:
        path, version = collection("pods", NAMESPACE), "0"
        while True:
            try:
                async for event in api.watch(path, version, labelSelector=SELECTOR):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._take(event["type"], event["object"])
            except ApiError:
                await asyncio.sleep(0.1)

    def _take(self, kind: str, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        if kind == "DELETED":
            self.created.pop(name, None)
            self.running.discard(name)
            return
        self.created[name] = int(pod["metadata"]["labels"][LABEL_ATTEMPT])
        if pod.get("status", {}).get("phase") == "Running":
            self.running.add(name)


@dataclass(frozen=True)
class Cost:
    """What a process has used so far."""

    cpu_seconds: float
    peak_mib: float

    @classmethod
    def of(cls, pid: int) -> Cost:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        ticks = os.sysconf("SC_CLK_TCK")
        return cls((int(fields[11]) + int(fields[12])) / ticks, int(peak[1]) / 1024 if peak else 0.0)


@dataclass
class Bench:
    """One fresh cluster with one operator."""

    api: Api
    operator: OperatorProcess
    pods: Pods
    stub: LeadStub

    async def create(self, jobs: range, replicas: int) -> None:
        """Posts jobs of these numbers, a few at once, as a user's tool would."""
        numbers = iter(jobs)

        async def post() -> None:
            for number in numbers:
                await self.api.create(collection("distributedtrainings", NAMESPACE), manifest(number, replicas))

        await asyncio.gather(*(post() for _ in range(CREATORS)))

    async def until(self, is_so: Callable[[], bool], begin: float) -> float:
        """Seconds since `begin` until something is so."""
        while not is_so():
            if time.monotonic() - begin > LONGEST_SECONDS:
                raise TimeoutError(f"{len(self.pods.created)} pods, {len(self.pods.running)} of them Running")
            await asyncio.sleep(0.01)
        return time.monotonic() - begin

    async def all_phases(self, jobs: int, phase: str) -> None:
        """Waits until every job says that it is in a phase."""
        begin = time.monotonic()
        while True:
            with suppress(ApiError):  # too busy to answer
                pages = self.api.pages(collection("distributedtrainings"))
                items = [job async for page in pages for job in page["items"]]
                if sum(job.get("status", {}).get("phase") == phase for job in items) == jobs:
                    return
            if time.monotonic() - begin > LONGEST_SECONDS:
                raise TimeoutError(f"not all jobs are {phase}")
            await asyncio.sleep(0.5)

    async def fail(self, job: int, index: int, attempt: int) -> None:
        """Ends the trainer of one pod with exit code 1, as a kubelet would tell it."""
        state = {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T00:00:00Z"}}
        status = {"phase": "Failed", "containerStatuses": [{"name": "trainer", "state": state}]}
        status["containerStatuses"][0] |= {"image": "i", "imageID": "", "ready": False, "restartCount": 0}  # type: ignore[index]
        path = collection("pods", NAMESPACE, f"job-{job}-{index}-{attempt}", "status")
        await self.api.merge(path, {"status": status})

    def writes(self) -> int:
        """Requests of the operator that change something; events and dry runs apart."""
        verbs = ("POST", "PUT", "PATCH", "DELETE")
        calls = [
            (resource, float(count))
            for _, resource, verb, count in CALLS.findall(self.operator.metrics())
            if verb in verbs and resource != "events"
        ]
        return int(sum(count for _, count in calls))


def manifest(number: int, replicas: int) -> dict[str, Any]:
    return {
        "apiVersion": "adts.dev/v1alpha1",
        "kind": "DistributedTraining",
        "metadata": {"name": f"job-{number}", "namespace": NAMESPACE},
        "spec": {
            "workers": {"replicas": replicas, "gpusPerWorker": 1},
            "model": {"type": "gpt", "layers": 2, "hiddenSize": 64, "heads": 2, "vocabularySize": 256},
            "data": {"type": "synthetic", "sequenceLength": 64},
            "training": {"steps": 1000, "globalBatchSize": replicas},
        },
    }


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    with Cluster(nodes=()) as cluster, Kwok(cluster, nodes=NODES, gpus_per_node=10_000, pods_per_node=10_000) as kwok:
        cluster.kubectl("apply", "-f", str(REPOSITORY / "crds/distributedtrainings.adts.dev.yaml"))
        cluster.kubectl("wait", "--for=condition=Established", "crd/distributedtrainings.adts.dev")
        api = await Api.connect(kubeconfig=str(cluster.kubeconfig))
        pods = Pods()
        watching = asyncio.create_task(pods.follow(api))
        operator = OperatorProcess(cluster.kubeconfig, folder)
        async with LeadStub(api, kwok.pod_range) as stub:
            try:
                await asyncio.to_thread(operator.start)
                yield Bench(api, operator, pods, stub)
            finally:
                operator.stop()
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                await api.close()


async def measure_start(folder: Path, jobs: int, replicas: int) -> dict[str, str]:
    """From the first job posted until all pods run and all jobs say so; then one gang's restart."""
    async with bench(folder) as it:
        wanted = jobs * replicas
        before, begin = Cost.of(it.operator.pid), time.monotonic()
        creating = asyncio.create_task(it.create(range(jobs), replicas))
        exist = await it.until(lambda: len(it.pods.created) >= wanted, begin)
        running = await it.until(lambda: len(it.pods.running) >= wanted, begin)
        await creating
        await it.all_phases(jobs, "Running")
        told, after = time.monotonic() - begin, Cost.of(it.operator.pid)
        writes = it.writes() / jobs
        p50, p99 = quantiles(it.operator.metrics(), (0.5, 0.99))
        restart = await measure_restart(it, replicas)
        floor = await measure_floor(it.api)
        return {
            "jobs x pods": f"{jobs} x {replicas}",
            "all pods exist, s": f"{exist:.1f}",
            "pods/s": f"{wanted / exist:.0f}",
            "a bare loop's pods/s": f"{floor:.0f}",
            "all Running, s": f"{running:.1f}",
            "all jobs Running in status, s": f"{told:.1f}",
            "writes per job": f"{writes:.1f} (N+{writes - replicas:.1f})",
            "operator CPU, s": f"{after.cpu_seconds - before.cpu_seconds:.2f}",
            "peak RSS, MiB": f"{after.peak_mib:.0f}",
            "reconcile p50 / p99, ms": f"{p50 * 1000:.0f} / {p99 * 1000:.0f}",
            "gang restart, s": f"{restart:.2f}",
        }


async def measure_restart(it: Bench, replicas: int) -> float:
    """One pod of a job fails -> all pods of its next attempt exist."""
    begin = time.monotonic()
    await it.fail(0, replicas - 1, 1)
    names = {f"job-0-{index}-2" for index in range(replicas)}
    return await it.until(lambda: names <= it.pods.created.keys(), begin)


async def measure_floor(api: Api) -> float:
    """The same pods posted again by a loop that does nothing else, as fast as this API server takes them, in pods/s."""
    bodies = [pod async for page in api.pages(collection("pods", NAMESPACE)) for pod in page["items"]]
    for body in bodies:
        body["metadata"] = {"name": f"floor-{body['metadata']['name']}", "namespace": NAMESPACE}
        del body["status"]
        body["spec"].pop("nodeName", None)
    waiting = iter(bodies)

    async def post() -> None:
        for body in waiting:
            await api.create(collection("pods", NAMESPACE), body)

    begin = time.monotonic()
    await asyncio.gather(*(post() for _ in range(FLOOR_CREATORS)))
    return len(bodies) / (time.monotonic() - begin)


async def measure_steady(folder: Path, jobs: int, replicas: int, seconds: float) -> dict[str, str]:
    """All jobs train and their lead pods tell new steps: what the operator uses per second."""
    async with bench(folder) as it:
        for first in range(0, jobs, WAVE):  # what is measured comes after; all at once would only drown the API server
            await it.create(range(first, min(first + WAVE, jobs)), replicas)
            await it.all_phases(min(first + WAVE, jobs), "Running")
        await asyncio.sleep(max(10.0, jobs * 0.06))  # until every job was asked once
        before, begin, asked = Cost.of(it.operator.pid), time.monotonic(), it.stub.answers
        await asyncio.sleep(seconds)
        after, passed = Cost.of(it.operator.pid), time.monotonic() - begin
        return {
            "jobs x pods": f"{jobs} x {replicas}, steady",
            "CPU, % of a core": f"{100 * (after.cpu_seconds - before.cpu_seconds) / passed:.1f}",
            "peak RSS, MiB": f"{after.peak_mib:.0f}",
            "lead pods asked per s": f"{(it.stub.answers - asked) / passed:.1f}",
        }


def quantiles(metrics: str, shares: Sequence[float]) -> list[float]:
    """Upper bounds of the histogram's buckets that hold these shares of all passes, in seconds."""
    buckets = [(float(bound), float(count)) for bound, count in BUCKETS.findall(metrics)]
    total = buckets[-1][1] if buckets else 0.0
    return [next((bound for bound, count in buckets if count >= share * total), 0.0) for share in shares]


def show(rows: list[dict[str, str]]) -> str:
    """Rows as Markdown tables, one for every set of columns."""
    tables: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        tables.setdefault(tuple(row), []).append(row)
    text = []
    for columns, of in tables.items():
        lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        text.append("\n".join(lines + [f"| {' | '.join(row.values())} |" for row in of]))
    return "\n\n".join(text)


SIZES: dict[str, Callable[[Path], Awaitable[dict[str, str]]]] = {
    "100x8": lambda folder: measure_start(folder, 100, 8),
    "10x256": lambda folder: measure_start(folder, 10, 256),
    "1000x8": lambda folder: measure_steady(folder, 1000, 8, 120.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=list(SIZES), help=f"of {', '.join(SIZES)}")
    parser.add_argument("--write", action="store_true", help=f"also write {TABLE.relative_to(REPOSITORY)}")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="adts-bench-") as folder:
        for size in arguments.sizes:
            load = os.getloadavg()[0]
            row = asyncio.run(SIZES[size](Path(folder)))
            rows.append(row)
            print(json.dumps(row | {"load before": f"{load:.1f}"}), flush=True)
    text = show(rows)
    print(f"\n{text}\n\n{os.cpu_count()} cores, Python {platform.python_version()}")
    if arguments.write:
        TABLE.parent.mkdir(exist_ok=True)
        head, _, _ = TABLE.read_text().partition("<!-- measured -->") if TABLE.exists() else ("", "", "")
        TABLE.write_text(f"{head}<!-- measured -->\n\n{text}\n")


if __name__ == "__main__":
    main()
