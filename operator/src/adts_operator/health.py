"""The HTTP server for the kubelet and for Prometheus: /healthz, /readyz and /metrics on one port.

It starts before the operator leads: a replica that stands by is alive and ready, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from adts_api.errors import ConfigError

Check = Callable[[], str | None]
"""Says what is wrong, or None. It must not block."""

BEAT_SECONDS: Final = 1.0
MAX_LAG_SECONDS: Final = 5.0


class Health:
    """Runs the checks of those who registered some; with none it answers that all is well."""

    def __init__(self, registry: CollectorRegistry, port: int) -> None:
        self._registry, self._port = registry, port
        self._live: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}
        self._runner: web.AppRunner | None = None

    def live(self, name: str, check: Check) -> None:
        """Registers a check of /healthz. While one fails, the kubelet restarts the operator: nothing else helps."""
        self._live[name] = check

    def ready(self, name: str, check: Check) -> None:
        """Registers a check of /readyz, which fails until all are well."""
        self._ready[name] = check

    async def start(self) -> None:
        """Listens on all addresses. Raises ConfigError where the port is taken."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, None, self._port).start()
        except OSError as error:
            raise ConfigError(f"the health port {self._port} cannot be used: {error.strerror or error}") from error

    async def stop(self) -> None:
        """Stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return _answer(self._live)

    async def _readyz(self, request: web.Request) -> web.Response:
        return _answer(self._ready)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


class EventLoopLag:
    """A check that fails while the event loop is held up by blocking code."""

    def __init__(self) -> None:
        self._beat_at = time.monotonic()

    async def run(self) -> None:
        """The heartbeat; a task of its own."""
        while True:
            self._beat_at = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    def check(self) -> str | None:
        lag = time.monotonic() - self._beat_at - BEAT_SECONDS
        return f"the event loop is {lag:.1f} s late" if lag > MAX_LAG_SECONDS else None


def report(checks: Mapping[str, Check]) -> tuple[bool, str]:
    """Whether all is well, and a line for every check."""
    problems = {name: check() for name, check in checks.items()}
    lines = [f"{name}: {problem or 'ok'}" for name, problem in problems.items()]
    return not any(problems.values()), "\n".join(lines or ["ok"]) + "\n"


def task_check(task: asyncio.Task[Any]) -> Check:
    """A check that fails once a task that should run for ever has ended."""
    return lambda: f"task {task.get_name()} has ended" if task.done() else None


def _answer(checks: Mapping[str, Check]) -> web.Response:
    is_well, text = report(checks)
    return web.Response(status=200 if is_well else 503, text=text)
