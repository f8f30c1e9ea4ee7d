"""One server that answers for the launchers of all lead pods: KWOK's pods have addresses and nobody behind them."""

from __future__ import annotations

import asyncio
import subprocess
import time
from typing import Any, Self

from aiohttp import web

from adts_api.contract import LABEL_ATTEMPT, LABEL_INDEX, LABEL_JOB_UID, LAUNCHER_PORT
from adts_api.pod_status import PodStatus
from adts_api.v1alpha1 import Progress
from adts_operator.cluster.api import Api, ApiError, collection
from adts_operator.core.times import to_rfc3339


class LeadStub:
    """Makes the pods' addresses ours for as long as it runs; every answer is one step further."""

    def __init__(self, api: Api, pod_range: str) -> None:
        self._api, self._range = api, pod_range
        self._leads: dict[str, tuple[str, int]] = {}
        self._steps: dict[str, int] = {}
        self.answers = 0

    async def __aenter__(self) -> Self:
        subprocess.run(["ip", "route", "add", "local", self._range, "dev", "lo"], check=True)
        app = web.Application()
        app.router.add_get("/status", self._status)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "0.0.0.0", LAUNCHER_PORT).start()
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        await self._runner.cleanup()
        subprocess.run(["ip", "route", "del", "local", self._range, "dev", "lo"], check=True)

    async def _follow(self) -> None:
        version = "0"
        while True:
            try:
                selector = f"{LABEL_INDEX}=0"
                async for event in self._api.watch(collection("pods"), version, labelSelector=selector):
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._take(event["object"])
            except ApiError:
                await asyncio.sleep(0.1)

    def _take(self, pod: dict[str, Any]) -> None:
        address, labels = pod.get("status", {}).get("podIP"), pod["metadata"].get("labels", {})
        if address and LABEL_JOB_UID in labels:
            self._leads[address] = (labels[LABEL_JOB_UID], int(labels[LABEL_ATTEMPT]))

    async def _status(self, request: web.Request) -> web.Response:
        address = (request.host or "").partition(":")[0]
        lead = self._leads.get(address)
        if lead is None:
            raise web.HTTPNotFound
        self.answers += 1
        self._steps[address] = step = self._steps.get(address, 0) + 1
        now = to_rfc3339(time.time())
        progress = Progress(step=step, steps=1000, loss=5.0 / step, tokens_per_second=1e5, at=now)
        status = PodStatus(job_uid=lead[0], attempt=lead[1], state="running", progress=progress)
        return web.Response(text=status.model_dump_json(by_alias=True), content_type="application/json")
