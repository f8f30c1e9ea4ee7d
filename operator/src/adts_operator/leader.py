"""Leader election by a Lease: one replica acts, the others stand by.

Two replicas never act at once. A leader that has not renewed for RENEW_DEADLINE seconds ends its process, whatever
hangs; another takes over only after it has seen the Lease unchanged for the longer DURATION. Both measure on their
own monotonic clock, so that wall clocks may differ.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NoReturn

from adts_operator.cluster.api import Api, ApiError, Object, collection

DURATION: Final = 10
"""Seconds for which a Lease that nobody renews still counts."""
RENEW_DEADLINE: Final = 7.0
"""Seconds after the last renewal was sent at which the leader ends."""
RETRY_SECONDS: Final = 2.0
"""Between two renewals, and between two looks of a replica that stands by."""
FAILED_RETRY_SECONDS: Final = 0.5
"""After a renewal that failed: there is little time left."""
REQUEST_SECONDS: Final = 3.0
"""For one request, so that two fit in before the deadline."""

Move = Literal["create", "take", "renew", "wait"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What a Lease says about its holder. A change of it is a sign of life."""

    holder: str
    duration: float
    acquired: str
    renewed: str
    transitions: int

    @classmethod
    def of(cls, lease: Object) -> Record:
        spec = lease.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration=spec.get("leaseDurationSeconds") or DURATION,
            acquired=spec.get("acquireTime") or "",
            renewed=spec.get("renewTime") or "",
            transitions=spec.get("leaseTransitions") or 0,
        )


def decide(record: Record | None, *, exists: bool, identity: str, observed_at: float, now: float) -> Move:
    """What to do about the Lease as it was last seen; `observed_at` is when that record was seen first.

    A Lease that somebody deleted still counts for its holder, who does not know yet.
    """
    if record is not None and record.holder not in ("", identity) and now - observed_at < record.duration:
        return "wait"
    if not exists:
        return "create"
    return "renew" if record is not None and record.holder == identity else "take"


def claim(lease: Object, holder: str, *, at: datetime, owner: Object | None = None, duration: int = DURATION) -> Object:
    """The Lease with another holder, or with a new time for the same one; an empty holder frees it."""
    old, now = Record.of(lease), at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    is_same = old.holder == holder
    claimed = {
        "holderIdentity": holder or None,
        "leaseDurationSeconds": duration,
        "acquireTime": old.acquired if is_same and old.acquired else now,
        "renewTime": now,
        "leaseTransitions": old.transitions + (bool(old.renewed and holder) and not is_same),
    }
    metadata = {**lease["metadata"], **({"ownerReferences": [owner]} if owner else {})}
    return {**lease, "metadata": metadata, "spec": {**(lease.get("spec") or {}), **claimed}}


def make_identity(pod_name: str) -> str:
    """A name that no other process has, also none that ran in the same pod before."""
    return f"{pod_name or socket.gethostname()}_{uuid.uuid4().hex[:8]}"


class Leadership:
    """Our side of one Lease: `acquire()`, then `hold()` beside the work, `release()` once the work has ended.

    Give it a connection of its own without a token bucket: a renewal must not queue behind the pods of a large job.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        identity: str,
        name: str = "adts-operator",
        owner: Object | None = None,
        exit: Callable[[int], NoReturn] = os._exit,  # noqa: A002  the field's word
    ) -> None:
        """`owner`: an owner reference for the Lease, the holder's pod, so that none is left when the last one goes."""
        self._api, self._name = api, name
        self._collection, self._path = collection("leases", namespace), collection("leases", namespace, name)
        self._identity, self._owner, self._exit = identity, owner, exit
        self._lease: Object | None = None  # as last read or written; None: not there
        self._seen: Record | None = None
        self._seen_at = 0.0
        self._deadline = 0.0
        self._is_over = threading.Event()  # released or lost

    @property
    def is_leader(self) -> bool:
        """Whether we may act now."""
        return not self._is_over.is_set() and time.monotonic() < self._deadline

    async def acquire(self) -> None:
        """Returns when we lead. From then on the process ends where `hold` does not renew in time."""
        told = ""
        while True:
            try:
                await self._look()
                move = self._decide()
                if move != "wait":
                    await self._write(move)
                    break
                level, news = logging.INFO, f"standing by while {self._seen.holder if self._seen else ''} leads"
            except (ApiError, TimeoutError) as error:
                level, news = logging.WARNING, f"the Lease {self._path} cannot be had: {_words(error)}"
            if news != told:
                told = news
                logger.log(level, "%s", news)
            await asyncio.sleep(self._pause())
        threading.Thread(target=self._watchdog, name="lease-watchdog", daemon=True).start()
        logger.info("leading as %s", self._identity)

    async def hold(self) -> None:
        """Renews until cancelled; ends the process where another holds the Lease or it cannot be renewed in time."""
        while not self._is_over.is_set():
            try:
                await self._renew()
                pause = RETRY_SECONDS * random.uniform(0.8, 1.0)
            except (ApiError, TimeoutError) as error:
                remaining = self._deadline - time.monotonic()
                logger.warning("the Lease was not renewed, %.1f s remain: %s", remaining, _words(error))
                pause = FAILED_RETRY_SECONDS
            await asyncio.sleep(pause)

    async def release(self) -> None:
        """Lets another lead at once. Call it when nothing of ours acts any more, and `hold` is cancelled."""
        if not self.is_leader:
            return
        self._is_over.set()
        try:
            await self._look()
            if self._lease is not None and Record.of(self._lease).holder == self._identity:
                await self._replace("", duration=1)
        except (ApiError, TimeoutError) as error:
            logger.warning("the Lease was not released, others wait %s s: %s", DURATION, _words(error))

    async def _renew(self) -> None:
        """Writes over the Lease as we left it; looks at it only where somebody interfered."""
        if self._lease is not None:
            try:
                await self._write("renew")
                return
            except ApiError as error:
                if error.status not in (404, 409):
                    raise
        await self._look()
        move = self._decide()
        if move in ("take", "wait"):  # also one that is free: somebody may have led since
            self._end("the Lease is no longer ours")
        await self._write(move)

    def _decide(self) -> Move:
        exists, now = self._lease is not None, time.monotonic()
        return decide(self._seen, exists=exists, identity=self._identity, observed_at=self._seen_at, now=now)

    def _pause(self) -> float:
        """Until the next look: no later than the holder's Lease runs out."""
        pause = RETRY_SECONDS * random.uniform(0.8, 1.2)
        if self._seen is None or not self._seen.holder:
            return pause
        remaining = self._seen_at + self._seen.duration - time.monotonic()
        return min(pause, remaining) if remaining > 0.0 else pause

    async def _look(self) -> None:
        """Reads the Lease."""
        lease: Object | None = None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                lease = await self._api.get(self._path)
        except ApiError as error:
            if error.status != 404:
                raise
        self._observe(lease)

    def _observe(self, lease: Object | None) -> None:
        self._lease = lease
        if lease is not None and (record := Record.of(lease)) != self._seen:
            self._seen, self._seen_at = record, time.monotonic()

    async def _write(self, move: Move) -> None:
        """Makes, takes or renews the Lease. We lead from the moment at which the request is sent."""
        sent_at = time.monotonic()
        if self._deadline and sent_at >= self._deadline:  # we were frozen, and somebody may have led since
            self._end("the Lease ran out")
        if move == "create":
            body: Object = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self._name}}
            body = claim(body, self._identity, at=datetime.now(UTC), owner=self._owner)
            async with asyncio.timeout(REQUEST_SECONDS):
                self._observe(await self._api.create(self._collection, body))
        else:
            await self._replace(self._identity)
        self._deadline = sent_at + RENEW_DEADLINE

    async def _replace(self, holder: str, *, duration: int = DURATION) -> None:
        """Writes over the Lease as we know it; fails with 409 where somebody else wrote meanwhile."""
        assert self._lease is not None
        body = claim(self._lease, holder, at=datetime.now(UTC), owner=self._owner, duration=duration)
        async with asyncio.timeout(REQUEST_SECONDS):
            self._observe(await self._api.replace(self._path, body))

    def _watchdog(self) -> None:
        """A thread, because the event loop may be what hangs."""
        while not self._is_over.wait(max(0.0, self._deadline - time.monotonic())):
            if time.monotonic() >= self._deadline:
                self._end(f"the Lease was not renewed for {RENEW_DEADLINE:g} s")

    def _end(self, why: str) -> NoReturn:
        """Ends the process. Another thread logs it: a pipe that nobody reads must not keep us alive."""
        self._is_over.set()
        last_words = threading.Thread(target=logger.critical, args=("leadership lost: %s", why), daemon=True)
        last_words.start()
        last_words.join(1.0)
        self._exit(1)


def _words(error: Exception) -> str:
    return f"no answer within {REQUEST_SECONDS:g} s" if isinstance(error, TimeoutError) else str(error)
