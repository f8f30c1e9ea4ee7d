"""The parts of the operator that act while it leads, and how they are connected: whatever changes puts the key of a job
into the queue, workers take keys out and reconcile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp

from adts_api.v1alpha1 import PLURAL
from adts_operator.cluster.api import Api, ApiError, collection
from adts_operator.cluster.children import Children
from adts_operator.cluster.events import EventRecorder
from adts_operator.cluster.job_store import JobStore, key_of
from adts_operator.cluster.kubernetes import KubernetesCluster
from adts_operator.cluster.kubernetes_jobs import KubernetesJobs
from adts_operator.core.build import Defaults
from adts_operator.core.environment import ports
from adts_operator.core.observed import effective_attempt
from adts_operator.logs import job_context
from adts_operator.metrics import Metrics
from adts_operator.progress import Lead, Progress, ask_pod
from adts_operator.reconciler import reconcile
from adts_operator.settings import Settings
from adts_operator.work_queue import WorkQueue

logger = logging.getLogger(__name__)

CHILD_DELAY_SECONDS = 0.3
END_DELAY_SECONDS = 0.02
"""Pods of a gang change together: one pass for all of them; sooner where one ended, for the others wait in vain."""
ENDED = ("Succeeded", "Failed")
SILENT_PHASES = (*ENDED, "Suspended")
STALE_SECONDS = 180.0
"""Without a word from a watch that hears a bookmark every minute."""


class Controller:
    """Everything that acts; made once the Lease is ours."""

    def __init__(self, api: Api, settings: Settings, metrics: Metrics, recorder: EventRecorder) -> None:
        self._api, self._settings, self._metrics = api, settings, metrics
        self._queue = WorkQueue()
        self._store = JobStore()
        self._children = Children(api, settings.watch_namespaces, self._child_changed)
        self._progress = Progress(self._asked, self._find_lead, self._ask, self._queue.add)
        self._jobs = KubernetesJobs(api, self._store, recorder, metrics.restarted)
        self._cluster = KubernetesCluster(api, self._jobs, self._store, self._children, self._progress, self._queue.add)
        self._defaults = Defaults(image=settings.trainer_image, pull_secrets=settings.image_pull_secrets)
        self._session: aiohttp.ClientSession | None = None
        self._delivered = 0  # newest resourceVersion that kopf's stream delivered
        self._listed = 0  # newest one of the list before the last
        self._is_behind = False
        metrics.watch_queue(lambda: len(self._queue))
        for resource in self._children.ages():
            metrics.watch_age(resource, lambda it=resource: self._children.ages()[it])  # type: ignore[misc]

    def take(self, event: str | None, raw: Mapping[str, Any]) -> None:
        """What kopf's stream delivers of a job."""
        self._delivered = max(self._delivered, int(raw["metadata"]["resourceVersion"]))
        if event == "DELETED":
            if self._store.remove(key_of(raw), raw["metadata"]["uid"]):
                self._metrics.forget_job(raw["metadata"]["namespace"], raw["metadata"]["name"])
        elif self._store.put(raw):  # else it is the echo of what we wrote ourselves
            self._queue.add(key_of(raw))

    async def run(self) -> None:
        """Acts for ever; ends with the first part that ends. All tasks are made at once: before kopf, see `watch`."""
        async with aiohttp.ClientSession() as self._session, asyncio.TaskGroup() as tasks:
            for informer in self._children.runs():
                tasks.create_task(informer)
            tasks.create_task(self._resync(), name="resync")
            tasks.create_task(self._progress.run(), name="progress")
            for number in range(self._settings.workers):
                tasks.create_task(self._work(), name=f"worker-{number}")

    def problem(self) -> str | None:
        """What is wrong with the watches, for /healthz."""
        if self._is_behind:
            return "the watch of the jobs delivers nothing"
        stale = [name for name, age in self._children.ages().items() if age > STALE_SECONDS]
        return f"the watch of {stale[0]} is silent" if stale else None

    def not_ready(self) -> str | None:
        """Why not everything is known yet, for /readyz."""
        return None if self._children.is_synced else "pods, services and config maps are not listed yet"

    async def _work(self) -> None:
        await self._children.wait_synced()  # what is not seen yet would be made again
        while True:
            key = await self._queue.get()
            namespace, _, name = key.partition("/")
            begin, error = time.monotonic(), None
            stored = self._store.get(key)
            attempt = stored.job.status.attempt if stored else None
            with job_context(namespace=namespace, name=name, attempt=attempt):
                try:
                    wait = await reconcile(key, self._jobs, self._cluster, time.time, self._defaults)
                    self._queue.done(key)
                    if wait is not None:
                        self._queue.add(key, wait)
                except ApiError as refused:
                    error = "api"
                    logger.warning("again in %.1f s: %s", self._queue.failed(key), refused)
                except Exception:
                    error = "bug"
                    logger.exception("again in %.1f s", self._queue.failed(key))
            self._metrics.reconciled(time.monotonic() - begin, error)

    async def _resync(self) -> None:
        """Corrects the store by lists: kopf's stream loses deletions after a reconnect, and may stand still."""
        while True:
            try:
                await self._list_jobs()
            except ApiError as error:
                logger.warning("the jobs were not listed: %s", error)
            await asyncio.sleep(self._settings.resync_seconds)

    async def _list_jobs(self) -> None:
        listed: set[str] = set()
        newest = version = 0
        before = dict(self._store)
        for namespace in self._settings.watch_namespaces or ("",):
            async for page in self._api.pages(collection(PLURAL, namespace)):
                version = int(page["metadata"]["resourceVersion"])
                for raw in page["items"]:
                    listed.add(key_of(raw))
                    newest = max(newest, int(raw["metadata"]["resourceVersion"]))
                    if self._store.put(raw):
                        self._queue.add(key_of(raw))
        for key, stored in before.items():
            if key not in listed and stored.version <= version:
                self._store.remove(key, stored.job.metadata.uid)
        # What was in the last list already must have come through the stream by now.
        self._is_behind = self._delivered < self._listed
        self._listed = newest
        self._cluster.forget({stored.job.metadata.uid for _, stored in self._store})
        self._metrics.set_jobs(Counter(stored.job.status.phase for _, stored in self._store))
        for _, stored in self._store:
            metadata, status = stored.job.metadata, stored.job.status
            if status.phase in ENDED:
                self._metrics.forget_job(metadata.namespace, metadata.name)
            else:
                self._metrics.show_job(metadata.namespace, metadata.name, status.progress)

    def _child_changed(self, key: str, ended: bool) -> None:
        self._queue.add(key, END_DELAY_SECONDS if ended else CHILD_DELAY_SECONDS)

    def _asked(self) -> Iterator[tuple[str, str]]:
        """UID and key of the jobs whose lead pod may tell something."""
        for key, stored in self._store:
            status = stored.job.status
            if status.attempt and status.phase not in SILENT_PHASES and not stored.job.spec.command:
                yield stored.job.metadata.uid, key

    def _find_lead(self, key: str) -> Lead | None:
        """The lead pod of a job, if it can be asked."""
        stored = self._store.get(key)
        if stored is None:
            return None
        job = stored.job
        items = self._children.pods(job.metadata.uid)
        attempt = effective_attempt(job.status.attempt, tuple(item.value.view for item in items))
        for item in items:
            view = item.value.view
            if view.index == 0 and view.attempt == attempt and view.phase == "Running" and item.value.ip:
                port = ports(job)[1]
                return Lead(job_key=key, namespace=item.namespace, pod=item.name, ip=item.value.ip, port=port)
        return None

    async def _ask(self, lead: Lead) -> bytes:
        if self._settings.progress_by == "pod-ip":
            assert self._session is not None, "asked before run()"
            return await ask_pod(self._session, lead)
        path = collection("pods", lead.namespace, f"{lead.pod}:{lead.port}", "proxy/status")
        try:
            return (await self._api.text(path)).encode()
        except ApiError as error:
            raise OSError(str(error)) from error
