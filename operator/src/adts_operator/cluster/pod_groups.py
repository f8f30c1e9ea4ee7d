"""The PodGroups of gangs, known from our own requests: a watch would need the API, which many clusters lack, and more
rights.
"""

from __future__ import annotations

from collections.abc import Set

from adts_api.v1alpha1 import DistributedTraining
from adts_operator.cluster.api import Api, ApiError, collection
from adts_operator.cluster.pod_views import owner_uid
from adts_operator.core.gang import APIS, KIND
from adts_operator.core.names import pod_group_name


class PodGroups:
    """Names of PodGroups by the UID of their job."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._names: dict[str, set[str]] = {}

    async def names(self, job: DistributedTraining) -> frozenset[str]:
        """Those of a job, as `PodGroup/name`. They are looked up once, for what an operator before this one made: only
        the newest attempt and the one before it can have any.
        """
        if job.spec.scheduling.gang == "none":
            return frozenset()
        uid, attempt = job.metadata.uid, job.status.attempt
        if uid not in self._names:
            newest = [pod_group_name(job.metadata.name, it) for it in (attempt - 1, attempt) if it > 0]
            self._names[uid] = {name for name in newest if await self._is_there(job, name)}
        return frozenset(f"{KIND}/{name}" for name in self._names[uid])

    def made(self, job_uid: str, name: str) -> None:
        """It is there."""
        self._names.setdefault(job_uid, set()).add(name)

    def deleted(self, job_uid: str, name: str) -> None:
        """It is gone, or about to be."""
        self._names.setdefault(job_uid, set()).discard(name)

    def forget(self, living: Set[str]) -> None:
        """Drops what is remembered of jobs that are gone."""
        self._names = {uid: names for uid, names in self._names.items() if uid in living}

    async def _is_there(self, job: DistributedTraining, name: str) -> bool:
        group = f"/apis/{APIS[job.spec.scheduling.gang]}"
        try:
            live = await self._api.get(collection("podgroups", job.metadata.namespace, name, group=group))
        except ApiError as error:
            if error.is_transient:
                raise
            return False  # not there, not served, or not ours to see: its creation will tell
        return owner_uid(live) == job.metadata.uid
