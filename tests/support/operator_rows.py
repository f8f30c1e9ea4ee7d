"""Rows of the tables that test `plan`: a job and what is seen of it -> phase, objects made and deleted, events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adts_api.contract import Reason
from adts_api.v1alpha1 import DistributedTraining
from adts_operator.core.observed import Observed
from adts_operator.core.plan import plan
from support.operator_jobs import NOW, after, make_job, make_pod, settle

BOTH = (make_pod(0), make_pod(1))
CHILDREN = frozenset({"Service/demo", "ConfigMap/demo-1"})


def resume_of(job: DistributedTraining) -> DistributedTraining:
    policy = job.spec.run_policy.model_copy(update={"suspend": False})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"run_policy": policy})})


def suspended(**fields: Any) -> DistributedTraining:
    return settle(make_job(run_policy={"suspend": True}, **fields), Observed())


def suspend_of(job: DistributedTraining) -> DistributedTraining:
    policy = job.spec.run_policy.model_copy(update={"suspend": True})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"run_policy": policy})})


@dataclass(frozen=True)
class Row:
    id: str
    job: DistributedTraining
    seen: Observed
    phase: str
    apply: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    events: list[Reason] = field(default_factory=list)
    attempt: int = 1
    now: float = NOW

    def check(self) -> None:
        """Runs one pass and compares."""
        step = plan(self.job, self.seen, self.now)
        status = after(self.job, step).status
        made = [f"{it['kind']}/{it['metadata']['name']}" for it in step.apply]
        deleted = [f"{it.name} {it.grace_seconds}" for it in step.delete]
        events = [event.reason for event in step.events]
        assert (status.phase, status.attempt, made, deleted, events) == (
            self.phase,
            self.attempt,
            self.apply,
            self.delete,
            self.events,
        )
