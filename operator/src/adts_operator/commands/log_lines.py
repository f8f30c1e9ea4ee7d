"""Lines of pods' logs: read, selected, and put in the order of time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adts_api.contract import CONTAINER, ConditionType
from adts_api.errors import ConfigError
from adts_api.topology import processes_per_worker, world_size
from adts_api.v1alpha1 import DistributedTraining
from adts_operator.cluster.api import Api, collection
from adts_operator.core.conditions import find_condition
from adts_operator.core.observed import PodView

Emit = Callable[["LogLine"], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of one pod."""

    pod: PodView
    stamp: str
    """When it was written, RFC 3339 with nanoseconds; empty where the kubelet tells none."""
    seconds: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which lines are wanted."""

    attempt: int | None = None
    """None: the current attempt, and while following every later one."""
    worker: int | None = None
    rank: int | None = None
    tail: int | None = None
    since_seconds: int | None = None

    def takes(self, pod: PodView, attempt: int) -> bool:
        """Whether a pod is wanted, at this attempt."""
        return pod.attempt == attempt and self.worker in (None, pod.index)

    def shows(self, text: str) -> bool:
        """Whether a line is wanted; the launcher puts the rank before each."""
        return self.rank is None or text.startswith(f"[rank {self.rank}] ")

    @property
    def query(self) -> dict[str, str]:
        """What the API server shall select."""
        asked = {"tailLines": self.tail, "sinceSeconds": self.since_seconds}
        return {name: str(value) for name, value in asked.items() if value is not None}


def choose(
    job: DistributedTraining,
    *,
    attempt: int | None,
    previous: bool,
    worker: int | None,
    rank: int | None,
    tail: int | None,
    since_seconds: int | None,
) -> Choice:
    """The choice of these options. Raises ConfigError where the job has no such attempt, worker or rank."""
    name, now, replicas = job.metadata.name, job.status.attempt, job.spec.workers.replicas
    if previous:
        if now < 2:
            raise ConfigError(f"--previous: {name} has no attempt before attempt {now}; leave --previous away")
        attempt = now - 1
    if attempt is not None and not now:
        raise ConfigError(f"--attempt {attempt}: {name} has not begun; leave --attempt away")
    if attempt is not None and not 1 <= attempt <= now:
        raise ConfigError(f"--attempt {attempt}: {name} is at attempt {now}; use 1 to {now}")
    if rank is not None:
        ranks, per_worker = world_size(job.spec), processes_per_worker(job.spec)
        if rank >= ranks:
            raise ConfigError(f"--rank {rank}: {name} has {ranks} ranks; use 0 to {ranks - 1}")
        if job.spec.command and per_worker > 1:
            raise ConfigError(f"--rank {rank}: the output of spec.command does not name its rank; use --worker")
        worker, rank = rank // per_worker, None if job.spec.command else rank
    if worker is not None and worker >= replicas:
        raise ConfigError(f"--worker {worker}: {name} has {replicas} workers; use 0 to {replicas - 1}")
    return Choice(attempt=attempt, worker=worker, rank=rank, tail=tail, since_seconds=since_seconds)


def has_log(pod: PodView) -> bool:
    """Whether the trainer has started: before that the kubelet has nothing to tell."""
    return pod.phase in ("Running", "Succeeded") or pod.exit_code is not None


async def read_lines(api: Api, namespace: str, pod: PodView, choice: Choice, **query: Any) -> AsyncIterator[LogLine]:
    """The wanted lines of a pod. Raises ApiError."""
    path = collection("pods", namespace, pod.name, "log")
    async for raw in api.lines(path, container=CONTAINER, timestamps="true", **query):
        line = parse_line(pod, raw.decode(errors="replace"))
        if choice.shows(line.text):
            yield line


def parse_line(pod: PodView, text: str) -> LogLine:
    """A line with the kubelet's time before it; its complaints about itself have none."""
    stamp, _, rest = text.partition(" ")
    try:
        return LogLine(pod, stamp, datetime.fromisoformat(stamp).timestamp(), rest)
    except ValueError:
        return LogLine(pod, "", 0.0, text)


async def by_time(logs: Sequence[AsyncIterator[LogLine]]) -> AsyncIterator[LogLine]:
    """The lines of all logs in the order they were written, holding one line of each."""
    firsts = await asyncio.gather(*(_next(log) for log in logs))
    heap = [(line.seconds, number, line) for number, line in enumerate(firsts) if line is not None]
    heapq.heapify(heap)
    while heap:
        _, number, line = heap[0]
        yield line
        following = await _next(logs[number])
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following.seconds or line.seconds, number, following))


async def _next(log: AsyncIterator[LogLine]) -> LogLine | None:
    return await anext(log, None)


def kept_output(job: DistributedTraining, attempt: int) -> str:
    """What the operator kept of an attempt that failed and whose pods are gone; empty where that is nothing."""
    if attempt == job.status.attempt:
        failed = find_condition(job.status.conditions, ConditionType.FAILED)
        return failed.message if failed is not None else ""
    ends = [it for it in job.status.restarts if it.scope == "attempt" and it.pod.endswith(f"-{attempt}")]
    return ends[-1].message if ends else ""
