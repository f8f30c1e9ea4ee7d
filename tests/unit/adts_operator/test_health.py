"""The health server's answers: the checks, the lag of the event loop, ended tasks."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge

from adts_api.errors import ConfigError
from adts_operator import health
from adts_operator.health import EventLoopLag, Health, report, task_check


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("checks", "is_well", "text"),
    [
        ({}, True, "ok\n"),
        ({"pods": None, "jobs": None}, True, "pods: ok\njobs: ok\n"),
        ({"pods": "nothing for 90 s", "jobs": None}, False, "pods: nothing for 90 s\njobs: ok\n"),
    ],
)
def test_a_report_has_a_line_for_every_check(checks: dict[str, str | None], is_well: bool, text: str) -> None:
    assert report({name: lambda answer=answer: answer for name, answer in checks.items()}) == (is_well, text)


async def test_the_server_answers_by_its_checks(port: int) -> None:
    registry = CollectorRegistry()
    Gauge("adts_leader", "Leads.", registry=registry).set(1)
    server = Health(registry, port)
    problem: list[str] = []
    server.live("watch", lambda: problem[0] if problem else None)
    server.ready("synced", lambda: "not yet")
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:

            async def get(path: str) -> tuple[int, str]:
                async with client.get(path) as response:
                    return response.status, await response.text()

            assert await get("/healthz") == (200, "watch: ok\n")
            assert await get("/readyz") == (503, "synced: not yet\n")
            problem.append("stale")
            assert await get("/healthz") == (503, "watch: stale\n")
            status, text = await get("/metrics")
            assert (status, "adts_leader 1.0" in text) == (200, True)
    finally:
        await server.stop()


async def test_a_taken_port_is_named(port: int) -> None:
    first, second = (Health(CollectorRegistry(), port) for _ in range(2))
    await first.start()
    try:
        with pytest.raises(ConfigError, match=f"the health port {port} cannot be used"):
            await second.start()
    finally:
        await first.stop()
        await second.stop()


async def test_a_blocked_event_loop_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    lag = EventLoopLag()
    beat = asyncio.create_task(lag.run())
    await asyncio.sleep(0)
    assert lag.check() is None
    later = health.time.monotonic() + 60.0
    monkeypatch.setattr(health.time, "monotonic", lambda: later)
    assert "late" in (lag.check() or "")
    beat.cancel()


async def test_a_task_that_ended_is_noticed() -> None:
    task = asyncio.create_task(asyncio.sleep(0), name="informer")
    check = task_check(task)
    assert check() is None
    await task
    assert check() == "task informer has ended"
