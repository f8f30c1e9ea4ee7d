"""Which APIs the cluster serves, asked when a job needs one and remembered for a minute."""

from __future__ import annotations

import time

from adts_api.v1alpha1 import DistributedTraining
from adts_operator.cluster.api import Api, ApiError
from adts_operator.core.gang import Requirement, requirements
from adts_operator.core.observed import Refusal

REMEMBERED_SECONDS = 60.0
NOT_FOUND = 404


class Capabilities:
    """Discovery of what gangs and queues need."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[tuple[str, str, str], tuple[float, bool]] = {}

    async def lacking(self, job: DistributedTraining) -> Refusal | None:
        """What to say where the cluster lacks something the job needs."""
        for needed in requirements(job):
            if not await self._serves(needed):
                return needed.refusal
        return None

    async def _serves(self, needed: Requirement) -> bool:
        key = (needed.group, needed.version, needed.resource)
        until, served = self._known.get(key, (0.0, False))
        if time.monotonic() >= until:
            served = await self._ask(needed)
            self._known[key] = (time.monotonic() + REMEMBERED_SECONDS, served)
        return served

    async def _ask(self, needed: Requirement) -> bool:
        """Any version will do where none is named: then the group itself is asked for."""
        try:
            answer = await self._api.get("/".join(filter(None, ("/apis", needed.group, needed.version))))
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return False
        return not needed.version or any(it["name"] == needed.resource for it in answer["resources"])
