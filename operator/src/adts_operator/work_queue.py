"""Keys of jobs to look at: each at most once in the queue, never in two hands, later after a failure."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from itertools import count

FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 60.0


class WorkQueue:
    """A queue of keys with due times; the earliest time asked for wins."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._order = count()
        self._in_hand: set[str] = set()
        self._failures: dict[str, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Keys that are due, and those in hand."""
        now = self._clock()
        return sum(due <= now for due in self._due.values()) + len(self._in_hand)

    def add(self, key: str, delay: float = 0.0) -> None:
        """Asks for a look at a key after a delay of seconds. One asked for while it is in hand comes after that."""
        due = self._clock() + delay
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._changed.set()

    async def get(self) -> str:
        """The next key that is due and in nobody's hand; it stays in the caller's until `done` or `failed`."""
        while True:
            wait = None
            held: list[tuple[float, int, str]] = []
            while self._heap:
                entry = heapq.heappop(self._heap)
                due, _, key = entry
                if self._due.get(key) != due:  # superseded by an earlier one
                    continue
                if due > self._clock():
                    heapq.heappush(self._heap, entry)
                    wait = due - self._clock()
                    break
                if key in self._in_hand:
                    held.append(entry)
                    continue
                self._push(held)
                del self._due[key]
                self._in_hand.add(key)
                return key
            self._push(held)
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue

    def done(self, key: str) -> None:
        """The look went well."""
        self._in_hand.discard(key)
        self._failures.pop(key, None)
        self._changed.set()

    def failed(self, key: str) -> float:
        """The look failed: again after a growing delay, which is returned."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._in_hand.discard(key)
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(failures, 16), LONGEST_RETRY_SECONDS)
        self.add(key, delay)
        return delay

    def _push(self, entries: list[tuple[float, int, str]]) -> None:
        for entry in entries:
            heapq.heappush(self._heap, entry)
