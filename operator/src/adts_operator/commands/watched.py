"""The objects of a collection as they are now, for commands that go on for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, NoReturn, TypeVar

from adts_operator.cluster.api import Api, ApiError, Object

T = TypeVar("T")

PAUSE_SECONDS = 2.0


class Watched(Generic[T]):
    """Kept by a list and a watch; where the API server is away, what was known last stays."""

    def __init__(
        self, api: Api, path: str, convert: Callable[[Object], T], changed: asyncio.Event, **query: Any
    ) -> None:
        self._api, self._path, self._convert, self._changed, self._query = api, path, convert, changed, query
        self._version = ""
        self.objects: dict[str, T] = {}
        """By UID."""
        self.problem = ""
        """Why the objects may be old; empty while the watch goes on."""

    async def load(self) -> None:
        """Lists all objects. Raises ApiError."""
        objects: dict[str, T] = {}
        async for page in self._api.pages(self._path, **self._query):
            self._version = page["metadata"]["resourceVersion"]
            objects |= {thing["metadata"]["uid"]: self._convert(thing) for thing in page["items"]}
        self.objects, self.problem = objects, ""
        self._changed.set()

    async def keep(self) -> NoReturn:
        """Follows the changes for ever, after a first `load`."""
        while True:
            try:
                async for event in self._api.watch(self._path, self._version, **self._query):
                    self._take(event)
            except ApiError as error:
                self.problem = error.message
                self._changed.set()
                await self._reload()

    async def _reload(self) -> None:
        while self.problem:
            try:
                await self.load()
            except ApiError as error:
                self.problem = error.message
                await asyncio.sleep(PAUSE_SECONDS)

    def _take(self, event: Object) -> None:
        thing = event["object"]
        self._version = thing["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return
        if event["type"] == "DELETED":
            self.objects.pop(thing["metadata"]["uid"], None)
        else:
            self.objects[thing["metadata"]["uid"]] = self._convert(thing)
        self._changed.set()


@asynccontextmanager
async def kept(*collections: Watched[Any]) -> AsyncIterator[None]:
    """Keeps them up to date meanwhile."""
    tasks = [asyncio.create_task(it.keep()) for it in collections]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
