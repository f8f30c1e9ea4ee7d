"""What the reconciler needs of a place that runs pods, and of a place that keeps jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from adts_api.v1alpha1 import DistributedTraining, Status
from adts_operator.core.observed import Observed, Refusal
from adts_operator.core.plan import Event, Plan


class Cluster(Protocol):
    """Where pods run."""

    async def observe(self, job: DistributedTraining) -> Observed:
        """One look at the job's children, found by its UID, and at what its lead pod says."""

    async def try_out(self, job: DistributedTraining, objects: Sequence[dict[str, Any]]) -> Refusal | None:
        """What would be said to these objects, without making them; None where they would be made."""

    async def apply(self, job: DistributedTraining, plan: Plan) -> None:
        """Deletes and makes what the plan says. What cannot be done now is asked for again by the next pass."""


class Jobs(Protocol):
    """Where jobs are kept."""

    async def read(self, key: str) -> DistributedTraining | None:
        """The job with the newest status that was written; None where it is gone."""

    async def write_status(self, job: DistributedTraining, status: Status) -> bool:
        """Replaces the status unless somebody else wrote the job meanwhile; says whether it did."""

    async def record(self, job: DistributedTraining, events: Sequence[Event]) -> None:
        """Tells people. Called only after the status that the events report was written."""

    async def delete(self, job: DistributedTraining) -> None:
        """Removes the job with all that is left of it: its time after the end is over."""
