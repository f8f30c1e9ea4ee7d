"""The queue of keys: once each, never in two hands, later after a failure."""

from __future__ import annotations

import asyncio

import pytest

from adts_operator.work_queue import LONGEST_RETRY_SECONDS, WorkQueue


async def taken(queue: WorkQueue) -> str | None:
    try:
        return await asyncio.wait_for(queue.get(), 0.02)
    except TimeoutError:
        return None


async def test_a_key_asked_for_twice_comes_once() -> None:
    queue = WorkQueue()
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert [await taken(queue), await taken(queue), await taken(queue)] == ["a", "b", None]


async def test_a_key_in_hand_comes_again_only_after_it_was_put_back() -> None:
    queue = WorkQueue()
    queue.add("a")
    assert await taken(queue) == "a"
    queue.add("a")
    assert await taken(queue) is None
    queue.done("a")
    assert await taken(queue) == "a"


async def test_another_key_passes_one_in_hand() -> None:
    queue = WorkQueue()
    queue.add("a")
    assert await taken(queue) == "a"
    queue.add("a")
    queue.add("b")
    assert await taken(queue) == "b"


async def test_the_earliest_time_wins() -> None:
    now = [0.0]
    queue = WorkQueue(clock=lambda: now[0])
    queue.add("a", 60.0)
    queue.add("a", 5.0)
    queue.add("a", 30.0)
    assert await taken(queue) is None
    now[0] = 5.0
    queue.add("wake")
    assert {await taken(queue), await taken(queue)} == {"a", "wake"}
    now[0] = 100.0
    queue.add("wake2")
    assert [await taken(queue), await taken(queue)] == ["wake2", None]


async def test_a_waiting_worker_wakes_for_an_earlier_key() -> None:
    queue = WorkQueue()
    queue.add("late", 60.0)
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0.01)
    queue.add("now")
    assert await asyncio.wait_for(worker, 1.0) == "now"


async def test_failures_delay_longer_and_longer_until_one_look_goes_well() -> None:
    now = [0.0]
    queue = WorkQueue(clock=lambda: now[0])
    delays = []
    for _ in range(10):
        queue.add("a")
        assert await taken(queue) == "a"
        delays.append(queue.failed("a"))
        now[0] += LONGEST_RETRY_SECONDS
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert delays[-1] == LONGEST_RETRY_SECONDS
    assert await taken(queue) == "a"
    queue.done("a")
    queue.add("a")
    assert await taken(queue) == "a"
    assert queue.failed("a") == pytest.approx(0.5)


async def test_its_length_is_what_is_due_or_in_hand() -> None:
    queue = WorkQueue()
    queue.add("later", 60.0)
    assert len(queue) == 0
    queue.add("a")
    queue.add("b")
    assert len(queue) == 2
    await queue.get()
    assert len(queue) == 2


async def test_many_workers_never_hold_the_same_key() -> None:
    queue = WorkQueue()
    held: set[str] = set()
    seen = 0

    async def work() -> None:
        nonlocal seen
        while True:
            key = await queue.get()
            assert key not in held
            held.add(key)
            await asyncio.sleep(0)
            held.discard(key)
            seen += 1
            queue.done(key)

    workers = [asyncio.create_task(work()) for _ in range(8)]
    for number in range(500):
        queue.add(f"key-{number % 7}")
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert all(not worker.done() for worker in workers)
    assert len(queue) == 0
    assert seen >= 7
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
