"""Watches the jobs and pods of a namespace while a test hurts the operator, and tells what must never be seen.

It reads the API server itself, past every proxy. What it saw is judged at the end: resourceVersions give one order to
the events of both watches.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adts_api.contract import LABEL_ATTEMPT, LABEL_INDEX, LABEL_JOB_UID
from adts_api.v1alpha1 import PLURAL
from adts_operator.cluster.api import Api, ApiError, Object, collection

ENDED = ("Succeeded", "Failed")
START_SECONDS = 20
AGAIN_SECONDS = 0.2
CLOSE_SECONDS = 0.25
"""What the event loop needs to say good-bye to TLS connections."""
GONE = 410


@dataclass
class SeenJob:
    """The life of one job."""

    name: str
    attempt: int = 0
    phase: str = ""
    ended_at: int | None = None
    """resourceVersion at which it was first seen ended."""
    deleted_at: int | None = None
    """resourceVersion of its deletion."""


@dataclass
class SeenPod:
    """The life of one pod."""

    job_uid: str
    name: str
    attempt: int
    index: int
    made_at: int
    """resourceVersion at which it was first seen."""
    leaves_at: int | None = None
    """resourceVersion at which it was first seen ended, on its way out or gone; None while it lives."""


@dataclass
class GangObserver:
    """Use it in a `with` block around the whole test, then look at `violations()`."""

    kubeconfig: Path
    namespace: str
    jobs: dict[str, SeenJob] = field(default_factory=dict)
    """By UID."""
    pods: dict[str, SeenPod] = field(default_factory=dict)
    """By UID."""

    def __post_init__(self) -> None:
        self._wrong: list[str] = []
        self._listed: set[str] = set()
        self._synced = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._observe()), name="gang-observer", daemon=True)

    def __enter__(self) -> GangObserver:
        self._thread.start()
        assert self._synced.wait(START_SECONDS), "the observer has not seen the namespace"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)

    def violations(self) -> list[str]:
        """Everything that must never be, in words; empty after a good run."""
        pods = sorted(self.pods.values(), key=lambda it: it.made_at)
        return [*self._wrong, *_twins(pods), *_side_by_side(pods), *self._too_late(pods)]

    def attempts(self, name: str) -> int:
        """The highest attempt whose pods were seen, of all jobs of this name."""
        uids = {uid for uid, job in list(self.jobs.items()) if job.name == name}
        return max((pod.attempt for pod in list(self.pods.values()) if pod.job_uid in uids), default=0)

    def _too_late(self, pods: list[SeenPod]) -> list[str]:
        """Pods made after their job had ended or was gone."""
        wrong = []
        for pod in pods:
            job = self.jobs.get(pod.job_uid)
            for word, version in (("ended", job.ended_at), ("was deleted", job.deleted_at)) if job else ():
                if version is not None and pod.made_at > version:
                    wrong.append(f"{pod.name} was made after its job {word}")
        return wrong

    async def _observe(self) -> None:
        self._loop = asyncio.get_running_loop()
        api = await Api.connect(kubeconfig=str(self.kubeconfig))
        takes = {PLURAL: self._take_job, "pods": self._take_pod}
        tasks = [asyncio.create_task(self._follow(api, plural, take)) for plural, take in takes.items()]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await api.close()
        await asyncio.sleep(CLOSE_SECONDS)

    async def _follow(self, api: Api, plural: str, take: Any) -> None:
        path, version = collection(plural, self.namespace), ""
        while True:
            try:
                if not version:
                    page = await api.get(path)
                    for thing in page["items"]:
                        take("ADDED", thing)
                    version = page["metadata"]["resourceVersion"]
                    self._listed.add(plural)
                    if len(self._listed) == 2:
                        self._synced.set()
                async for event in api.watch(path, version):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        take(event["type"], event["object"])
            except ApiError as error:  # the API server may be restarted meanwhile
                version = "" if error.status == GONE else version
                await asyncio.sleep(AGAIN_SECONDS)

    def _take_job(self, event: str, job: Object) -> None:
        metadata, status = job["metadata"], job.get("status") or {}
        version, attempt, phase = int(metadata["resourceVersion"]), status.get("attempt", 0), status.get("phase", "")
        seen = self.jobs.setdefault(metadata["uid"], SeenJob(metadata["name"]))
        if event == "DELETED":
            seen.deleted_at = version
            return
        if attempt < seen.attempt:
            self._wrong.append(f"{seen.name} went from attempt {seen.attempt} back to {attempt}")
        if seen.ended_at is not None and phase != seen.phase:
            self._wrong.append(f"{seen.name} had {seen.phase} and is {phase} again")
        if phase in ENDED and seen.ended_at is None:
            seen.ended_at = version
        seen.attempt, seen.phase = attempt, phase

    def _take_pod(self, event: str, pod: Object) -> None:
        metadata, labels = pod["metadata"], pod["metadata"].get("labels") or {}
        if LABEL_JOB_UID not in labels:
            return
        version = int(metadata["resourceVersion"])
        seen = self.pods.setdefault(
            metadata["uid"],
            SeenPod(
                job_uid=labels[LABEL_JOB_UID],
                name=metadata["name"],
                attempt=int(labels[LABEL_ATTEMPT]),
                index=int(labels[LABEL_INDEX]),
                made_at=version,
            ),
        )
        leaves = event == "DELETED" or metadata.get("deletionTimestamp") or _has_ended(pod)
        if leaves and seen.leaves_at is None:
            seen.leaves_at = version


def _has_ended(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in ENDED


def _twins(pods: list[SeenPod]) -> list[str]:
    """Two pods that ever stood for the same place of the same attempt."""
    places: defaultdict[tuple[str, int, int], list[SeenPod]] = defaultdict(list)
    for pod in pods:
        places[pod.job_uid, pod.attempt, pod.index].append(pod)
    return [f"{len(same)} pods were {same[0].name}" for same in places.values() if len(same) > 1]


def _side_by_side(pods: list[SeenPod]) -> list[str]:
    """Pods of two attempts, neither of which anybody had deleted when the second one was made."""
    wrong = []
    for first, second in itertools.combinations(pods, 2):
        if first.job_uid != second.job_uid or first.attempt == second.attempt:
            continue
        if first.leaves_at is None or first.leaves_at > second.made_at:
            wrong.append(f"{second.name} was made while {first.name} lived")
        elif first.attempt > second.attempt:
            wrong.append(f"{second.name} was made after {first.name}")
    return wrong
