"""Jobs as objects of the API server. A `Jobs` for the reconciler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from adts_api.v1alpha1 import PLURAL, DistributedTraining, Status
from adts_operator.cluster.api import Api, ApiError, collection
from adts_operator.cluster.events import EventRecorder
from adts_operator.cluster.job_store import JobStore, merge_patch
from adts_operator.core.plan import Event

CONFLICT, NOT_FOUND = 409, 404
OURSELVES = ("", "adts.dev/operator")
"""What runPolicy.managedBy may say for us to reconcile the job."""


class KubernetesJobs:
    """Reads from the store, writes to the API server, and puts the answers into the store."""

    def __init__(
        self,
        api: Api,
        store: JobStore,
        recorder: EventRecorder,
        on_restart: Callable[[str, str], None] = lambda scope, reason: None,
    ) -> None:
        """`on_restart(scope, reason)` is told of every restart that was written."""
        self._api, self._store, self._recorder, self._on_restart = api, store, recorder, on_restart

    async def read(self, key: str) -> DistributedTraining | None:
        """The newest known state; None where it is gone, on its way out, or somebody else's to manage."""
        stored = self._store.get(key)
        if stored is None or stored.job.metadata.deletion_timestamp:
            return None
        return stored.job if stored.job.spec.run_policy.managed_by in OURSELVES else None

    async def write_status(self, job: DistributedTraining, status: Status) -> bool:
        """Writes what changed, unless the job was written since it was read."""
        stored = self._store.get(_key(job))
        if stored is None or stored.job.metadata.resource_version != job.metadata.resource_version:
            return False
        metadata = {"resourceVersion": job.metadata.resource_version, "uid": job.metadata.uid}
        patch = {"metadata": metadata, "status": merge_patch(stored.raw_status, plain(status))}
        try:
            answer = await self._api.merge(_path(job, "status"), patch)
        except ApiError as error:
            if error.status not in (CONFLICT, NOT_FOUND):
                raise
            await self.refresh(job)
            return False
        self._store.written(_key(job), status, answer)
        for restart in status.restarts:
            if restart not in job.status.restarts:
                self._on_restart(restart.scope, restart.reason)
        return True

    async def refresh(self, job: DistributedTraining) -> bool:
        """Reads the job from the API server; says whether it is still exactly the one that was planned for."""
        try:
            live = await self._api.get(_path(job))
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            self._store.remove(_key(job))
            return False
        self._store.put(live)
        metadata = live["metadata"]
        return bool(
            metadata["resourceVersion"] == job.metadata.resource_version and metadata["uid"] == job.metadata.uid
        )

    async def record(self, job: DistributedTraining, events: Sequence[Event]) -> None:
        await self._recorder.record(job, events)

    async def delete(self, job: DistributedTraining) -> None:
        """Deletes the job; its children follow by their owner references."""
        await self._api.delete(_path(job), uid=job.metadata.uid)


def plain(status: Status) -> dict[str, Any]:
    """The status as JSON. A loss of NaN, which JSON cannot say, is left out."""
    dumped: dict[str, Any] = _without_nan(status.model_dump(mode="json", by_alias=True, exclude_none=True))
    return dumped


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_nan(it) for key, it in value.items() if not (isinstance(it, float) and not math.isfinite(it))
        }
    return [_without_nan(it) for it in value] if isinstance(value, list) else value


def _key(job: DistributedTraining) -> str:
    return f"{job.metadata.namespace}/{job.metadata.name}"


def _path(job: DistributedTraining, subresource: str = "") -> str:
    return collection(PLURAL, job.metadata.namespace, job.metadata.name, subresource)
