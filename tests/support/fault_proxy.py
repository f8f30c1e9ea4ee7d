"""A proxy in front of a real API server that answers some requests itself: 409, 429, 500, nothing, or late."""

from __future__ import annotations

import asyncio
import base64
import copy
import random
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

HOP_BY_HOP = {"host", "connection", "content-length", "transfer-encoding", "content-encoding", "accept-encoding"}
REASONS = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
NO_ANSWER = 0
"""As a fault's code: the connection breaks."""
START_SECONDS = 20
UPSTREAM_SECONDS = 60
SWALLOW_SECONDS = 0.1
CLOSE_SECONDS = 0.25
"""What the event loop needs to say good-bye to TLS connections."""


def is_write(method: str, path: str) -> bool:
    """Whether a request changes something."""
    return method in ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Fault:
    """Answers `code` to a share of the requests for which `hits(method, path)` holds."""

    code: int
    share: float = 1.0
    hits: Callable[[str, str], bool] = is_write
    after: bool = False
    """Whether the real server does what it was asked first: the answer is lost, not the request."""


class FaultProxy:
    """Listens on loopback without TLS; `kubeconfig` leads to it. What it does may be changed while it runs."""

    def __init__(self, kubeconfig: Path | str, folder: Path, seed: int = 0) -> None:
        """`kubeconfig` must authenticate by a token, because that passes through."""
        self._source: dict[str, Any] = yaml.safe_load(Path(kubeconfig).read_text())
        self.kubeconfig = folder / "proxy.kubeconfig"
        self.faults: tuple[Fault, ...] = ()
        self.latency = 0.0
        """Seconds that every request waits first."""
        self.is_deaf = False
        """Whether watches stay open and deliver nothing."""
        self.counts: Counter[str] = Counter()
        """Requests by method, faults by code, and `dropped` watches."""
        self._random = random.Random(seed)
        self._watches: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fault-proxy", daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        assert self._ready.wait(START_SECONDS), "the proxy does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)

    def drop_watches(self) -> None:
        """Breaks every watch that is open, in the middle of its stream."""

        def drop() -> None:
            for task in self._watches:
                task.cancel()

        self._loop.call_soon_threadsafe(drop)

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """What happens meanwhile is never told by the watches: they stand still, and break in the end."""
        self.is_deaf = True
        yield
        self.drop_watches()
        self.is_deaf = False

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(ssl=_trust(self._source["clusters"][0]["cluster"]), limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._session:
            app = web.Application(client_max_size=1 << 26)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            config = copy.deepcopy(self._source)
            config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}
            self.kubeconfig.write_text(yaml.safe_dump(config))
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()
        await asyncio.sleep(CLOSE_SECONDS)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.counts[request.method] += 1
        await asyncio.sleep(self.latency)
        fault = self._fault(request.method, request.path)
        if fault is not None and not fault.after:
            return _faulty(fault, request)
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        is_watch = request.query.get("watch") == "true"
        timeout = aiohttp.ClientTimeout(total=None if is_watch else UPSTREAM_SECONDS)
        url = f"{self._source['clusters'][0]['cluster']['server']}{request.raw_path}"
        try:
            async with self._session.request(
                request.method, url, data=body or None, headers=headers, timeout=timeout
            ) as answer:
                if fault is not None:
                    await answer.read()
                    return _faulty(fault, request)
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
                response = web.StreamResponse(status=answer.status, headers=kept)
                await response.prepare(request)
                if is_watch:
                    await self._stream(answer, response, request)
                else:
                    await response.write(await answer.read())
                return response
        except (OSError, aiohttp.ClientError, TimeoutError):  # as the client would see it without a proxy
            return _faulty(Fault(NO_ANSWER), request)

    async def _stream(self, answer: aiohttp.ClientResponse, response: web.StreamResponse, request: web.Request) -> None:
        async def copy_chunks() -> None:
            async for chunk in answer.content.iter_any():
                while self.is_deaf:
                    await asyncio.sleep(SWALLOW_SECONDS)
                await response.write(chunk)

        task = asyncio.ensure_future(copy_chunks())
        self._watches.add(task)
        try:
            await task
        except asyncio.CancelledError:
            self.counts["dropped"] += 1
            _break(request)
        finally:
            self._watches.discard(task)

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.hits(method, path) and self._random.random() < fault.share:
                self.counts[f"{fault.code}{' after' if fault.after else ''}"] += 1
                return fault
        return None


def _trust(cluster: dict[str, Any]) -> ssl.SSLContext:
    data = cluster.get("certificate-authority-data")
    return ssl.create_default_context(
        cafile=cluster.get("certificate-authority"), cadata=base64.b64decode(data).decode() if data else None
    )


def _break(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _faulty(fault: Fault, request: web.Request) -> web.Response:
    if fault.code == NO_ANSWER:
        _break(request)
        return web.Response()
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": fault.code,
        "reason": REASONS[fault.code],
        "message": f"fault injected by the test: {fault.code}",
    }
    headers = {"Retry-After": "1"} if fault.code == 429 else {}
    return web.json_response(status, status=fault.code, headers=headers)
