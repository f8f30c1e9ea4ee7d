"""Kubernetes events about jobs, sent in the background: a slow API server must not delay a restart.

The name of an event follows from what it says, so that a repetition raises the count of the one that is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from adts_api.v1alpha1 import DistributedTraining
from adts_operator.cluster.api import Api, ApiError, Object, collection
from adts_operator.core.transitions import Event

QUEUE_LENGTH: Final = 5000
REMEMBERED: Final = 4096
"""Jobs, and events, that are remembered; what is forgotten costs a request more, or lets a few more events through."""
MESSAGE_BYTES: Final = 1024
BURST: Final = 10
PER_SECOND: Final = 1 / 60

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Posting:
    """One event on its way."""

    path: str
    body: Object


class Limiter:
    """At most BURST events of a job at once and one a minute after that."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, uid: str) -> bool:
        """Whether one more may be sent; counts it."""
        now = self._clock()
        tokens, at = self._jobs.pop(uid, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - at) * PER_SECOND)
        is_allowed = tokens >= 1.0
        self._jobs[uid] = (tokens - is_allowed, now)
        if len(self._jobs) > REMEMBERED:
            self._jobs.popitem(last=False)
        return is_allowed


class EventRecorder:
    """Takes events at once and sends them one after the other while `run` runs. An event may get lost, in the log."""

    def __init__(self, api: Api, *, component: str = "adts-operator", instance: str = "") -> None:
        self._api, self._component, self._instance = api, component, instance
        self._queue: asyncio.Queue[_Posting] = asyncio.Queue(QUEUE_LENGTH)
        self._limiter = Limiter()
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def record(self, job: DistributedTraining, events: Sequence[Event]) -> None:
        """Queues events about a job; never waits, never fails."""
        for event in events:
            posting = self._posting(job, event)
            if not self._limiter.allows(job.metadata.uid):
                logger.warning("not sent, too many events of this job: %s: %s", event.reason, event.message)
                continue
            try:
                self._queue.put_nowait(posting)
            except asyncio.QueueFull:
                logger.warning("not sent, too many events wait: %s: %s", event.reason, event.message)

    async def run(self) -> None:
        """Sends what is queued; a task of its own."""
        while True:
            posting = await self._queue.get()
            try:
                await self._send(posting)
            except ApiError as error:
                logger.warning("an event was not sent: %s: %s", posting.body["reason"], error)
            finally:
                self._queue.task_done()

    async def flush(self, seconds: float) -> None:
        """Waits until everything is sent, but no longer than this. `run` must still run."""
        try:
            await asyncio.wait_for(self._queue.join(), seconds)
        except TimeoutError:
            logger.warning("%d events were not sent in time", self._queue.qsize())

    async def _send(self, posting: _Posting) -> None:
        """Creates the event, or counts one more of it. What another process counted we learn from the first answer."""
        name, path = posting.body["metadata"]["name"], posting.path
        again: Object = {"lastTimestamp": posting.body["lastTimestamp"]}
        count = self._counts.get(name)
        if count is None:
            try:
                await self._api.create(path, posting.body)
                self._remember(name, 1)
                return
            except ApiError as error:
                if error.status != 409:
                    raise
            count = (await self._api.merge(f"{path}/{name}", again)).get("count") or 1
        try:
            await self._api.merge(f"{path}/{name}", {**again, "count": count + 1})
            self._remember(name, count + 1)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._api.create(path, posting.body)  # it was too old and is gone
            self._remember(name, 1)

    def _remember(self, name: str, count: int) -> None:
        self._counts[name] = count
        self._counts.move_to_end(name)
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)

    def _posting(self, job: DistributedTraining, event: Event) -> _Posting:
        metadata = job.metadata
        body = event_object(job, event, at=datetime.now(UTC), component=self._component, instance=self._instance)
        return _Posting(collection("events", metadata.namespace), body)


def event_object(job: DistributedTraining, event: Event, *, at: datetime, component: str, instance: str) -> Object:
    """The `Event` of core/v1 about a job."""
    metadata, moment = job.metadata, at.strftime("%Y-%m-%dT%H:%M:%SZ")
    message = shorten(event.message, MESSAGE_BYTES)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(job, event), "namespace": metadata.namespace},
        "involvedObject": {
            "apiVersion": job.api_version,
            "kind": job.kind,
            "namespace": metadata.namespace,
            "name": metadata.name,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
        "type": event.type,
        "reason": event.reason.value,
        "message": message,
        "count": 1,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": instance,
    }


def event_name(job: DistributedTraining, event: Event) -> str:
    """The same for the same words about the same job."""
    words = "\0".join((job.metadata.uid, event.type, event.reason.value, event.message))
    return f"{job.metadata.name}.{hashlib.sha256(words.encode()).hexdigest()[:16]}"


def shorten(text: str, size: int) -> str:
    """The text in at most so many bytes of UTF-8, the cut marked."""
    data = text.encode()
    return text if len(data) <= size else data[: size - 3].decode(errors="ignore") + "..."
