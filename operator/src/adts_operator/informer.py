"""List and watch of one kind of our own objects, selected by label on the server: kopf would stream every pod of the
cluster and select here. The store is replaced by every list, so that a lost deletion is found.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from adts_api.contract import LABEL_JOB, LABEL_JOB_UID, LABEL_MANAGED_BY, MANAGED_BY
from adts_operator.cluster.api import Api, ApiError
from adts_operator.cluster.pod_views import owner_uid

logger = logging.getLogger(__name__)
T = TypeVar("T")

SELECTOR = f"{LABEL_MANAGED_BY}={MANAGED_BY},{LABEL_JOB_UID}"
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 15.0
GRAVES = 10_000
GONE = 410


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """One object of the store."""

    uid: str
    namespace: str
    name: str
    version: int
    """Its resourceVersion; newer is larger."""
    job_uid: str
    """Of the job that owns it; empty where somebody took the owner away."""
    job_key: str
    """`namespace/name` of that job, by its label."""
    value: T


class Informer(Generic[T]):
    """What is known of one collection. `on_change` gets the key of the job whose child changed, and what is kept of the
    child; None where it is gone.
    """

    def __init__(
        self, api: Api, path: str, convert: Callable[[Mapping[str, Any]], T], on_change: Callable[[str, T | None], None]
    ) -> None:
        self._api, self._path, self._convert, self._on_change = api, path, convert, on_change
        self._items: dict[str, Item[T]] = {}
        self._of_job: defaultdict[str, dict[str, Item[T]]] = defaultdict(dict)
        self._graves: OrderedDict[str, None] = OrderedDict()  # an answer to a POST may come after the deletion
        self._contact = time.monotonic()
        self.synced = asyncio.Event()

    @property
    def age(self) -> float:
        """Seconds since the API server last said anything; a bookmark comes every minute."""
        return time.monotonic() - self._contact

    def of_job(self, job_uid: str) -> Iterable[Item[T]]:
        """The children of a job."""
        return list(self._of_job[job_uid].values()) if job_uid in self._of_job else []

    def put(self, thing: Mapping[str, Any]) -> None:
        """Takes an object from the watch, from a list, or from the answer to a request of ours; older ones are left."""
        metadata = thing["metadata"]
        uid, version = metadata["uid"], int(metadata["resourceVersion"])
        known = self._items.get(uid)
        if uid in self._graves or (known is not None and known.version >= version):
            return
        namespace = metadata["namespace"]
        item = Item(
            uid=uid,
            namespace=namespace,
            name=metadata["name"],
            version=version,
            job_uid=owner_uid(thing),
            job_key=f"{namespace}/{(metadata.get('labels') or {}).get(LABEL_JOB, '')}",
            value=self._convert(thing),
        )
        if known is not None:
            self._of_job[known.job_uid].pop(uid, None)
        self._items[uid] = self._of_job[item.job_uid][uid] = item
        if known is None or (known.value, known.job_uid) != (item.value, item.job_uid):
            self._on_change(item.job_key, item.value)

    async def run(self) -> None:
        """Keeps the store up to date for ever."""
        pause = FIRST_PAUSE_SECONDS
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list()
                async for event in self._api.watch(self._path, version, labelSelector=SELECTOR):
                    self._contact = time.monotonic()
                    pause = FIRST_PAUSE_SECONDS
                    version = event["object"]["metadata"]["resourceVersion"]
                    self.take(event)
            except ApiError as error:
                if error.status == GONE:
                    version = ""
                    continue
                # A first silence is nothing: an idle collection may be quiet for longer than its bookmarks' minute.
                level = logging.WARNING if error.status or pause > FIRST_PAUSE_SECONDS else logging.INFO
                logger.log(level, "watch of %s: %s; again in %.1f s", self._path, error, pause)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                if error.status:  # the server knows our version no longer, or refuses us: start over
                    version = ""

    async def _list(self) -> str:
        seen: set[str] = set()
        version = ""
        async for page in self._api.pages(self._path, labelSelector=SELECTOR):
            version = page["metadata"]["resourceVersion"]
            for thing in page["items"]:
                seen.add(thing["metadata"]["uid"])
                self.put(thing)
            self._contact = time.monotonic()
        # What our own requests made after this list is newer than it, and no leftover.
        for uid in [it.uid for it in self._items.values() if it.uid not in seen and it.version <= int(version)]:
            self._drop(uid)
        self.synced.set()
        return version

    def take(self, event: Mapping[str, Any]) -> None:
        """One event of the watch."""
        if event["type"] == "DELETED":
            self._drop(event["object"]["metadata"]["uid"])
        elif event["type"] != "BOOKMARK":
            self.put(event["object"])

    def _drop(self, uid: str) -> None:
        self._graves[uid] = None
        if len(self._graves) > GRAVES:
            self._graves.popitem(last=False)
        item = self._items.pop(uid, None)
        if item is None:
            return
        siblings = self._of_job[item.job_uid]
        siblings.pop(uid, None)
        if not siblings:
            del self._of_job[item.job_uid]
        self._on_change(item.job_key, None)
