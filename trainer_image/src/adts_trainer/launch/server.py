"""The launcher's HTTP server: /healthz, /status, /metrics, /stacks for everyone, /agreement for launchers."""

from __future__ import annotations

import errno
import hmac
import ipaddress
from typing import Protocol

from aiohttp import web
from pydantic import ValidationError

from adts_api.contract import Env
from adts_api.errors import ConfigError
from adts_api.pod_status import PodStatus
from adts_trainer.errors import PortTakenError
from adts_trainer.launch.agreement import RefusedError
from adts_trainer.launch.messages import Decision, Report
from adts_trainer.launch.status import metrics

MAX_BODY_BYTES = 65_536
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Pod(Protocol):
    """What the server asks of the launcher."""

    @property
    def job_name(self) -> str:
        """Name of the job, label of its metrics."""

    @property
    def token(self) -> str:
        """What a launcher must show; empty lets everyone in."""

    def status(self) -> PodStatus:
        """The state of the pod now."""

    async def stacks(self) -> str:
        """Python stacks of the ranks."""

    async def exchange(self, report: Report) -> Decision:
        """The decision after a report; may hold the answer back until there is a new one. Raises RefusedError."""


def build_app(pod: Pod) -> web.Application:
    """The application; nothing listens yet."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def status(request: web.Request) -> web.Response:
        return web.Response(text=pod.status().model_dump_json(by_alias=True), content_type="application/json")

    async def metrics_text(request: web.Request) -> web.Response:
        return web.Response(body=metrics(pod.job_name, pod.status()), headers={"Content-Type": METRICS_TYPE})

    async def stacks(request: web.Request) -> web.Response:
        if not is_loopback(request.remote):
            return web.Response(status=403, text="stacks are answered on this machine only: use 127.0.0.1\n")
        return web.Response(text=await pod.stacks())

    async def agreement(request: web.Request) -> web.Response:
        if not is_authorized(request.headers.get("Authorization", ""), pod.token):
            return _refusal(401, "the token of another job, or none")
        try:
            report = Report.model_validate_json(await request.read())
        except ValidationError as error:
            return _refusal(400, "; ".join(f"{e['loc']}: {e['msg']}" for e in error.errors()))
        try:
            decision = await pod.exchange(report)
        except RefusedError as refused:
            return _refusal(409, str(refused))
        return web.Response(text=decision.model_dump_json(by_alias=True), content_type="application/json")

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/status", status)
    app.router.add_get("/metrics", metrics_text)
    app.router.add_get("/stacks", stacks)
    app.router.add_post("/agreement", agreement)
    return app


def is_loopback(address: str | None) -> bool:
    """Whether a peer address is of this machine, IPv4 inside IPv6 included."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def is_authorized(header: str, token: str) -> bool:
    """Whether an Authorization header shows the token."""
    return not token or hmac.compare_digest(header.encode(), f"Bearer {token}".encode())


def _refusal(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)


async def serve(app: web.Application, host: str | None, port: int) -> tuple[web.AppRunner, int]:
    """Listens; returns the runner to clean up and the port. Raises PortTakenError or ConfigError."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"{Env.PORT}: port {port} is in use on this machine; end its owner or choose another port"
            ) from None
        raise ConfigError(f"{Env.PORT}: cannot listen on port {port}: {error.strerror}") from None
    return runner, int(runner.addresses[0][1])
