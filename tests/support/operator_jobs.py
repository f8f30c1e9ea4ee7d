"""Builders for tests of the operator's core: jobs, pods and answers of the lead in one line each."""

from __future__ import annotations

from typing import Any

from adts_api.pod_status import PodStatus
from adts_api.v1alpha1 import CheckpointStatus, DistributedTraining, Progress, Restart, Status
from adts_operator.core.names import pod_name
from adts_operator.core.observed import Observed, PodView
from adts_operator.core.plan import Plan, plan

UID = "0d5e2c7a-1111-4222-8333-444455556666"
NOW = 1_800_000_000.0


def make_job(
    *,
    name: str = "demo",
    replicas: int = 2,
    gpus: int = 0,
    processes: int = 0,
    generation: int = 1,
    status: Status | None = None,
    run_policy: dict[str, Any] | None = None,
    **spec: Any,
) -> DistributedTraining:
    workers = {"replicas": replicas, "gpusPerWorker": gpus, "processesPerWorker": processes}
    workers |= spec.pop("workers", {})
    manifest = {
        "apiVersion": "adts.dev/v1alpha1",
        "kind": "DistributedTraining",
        "metadata": {"name": name, "uid": UID, "generation": generation},
        "spec": {
            "workers": workers,
            "model": {} if "command" in spec else {"type": "gpt"},
            "data": {} if "command" in spec else {"type": "synthetic"},
            "training": {"steps": 100},
            "runPolicy": run_policy or {},
            **spec,
        },
    }
    job = DistributedTraining.model_validate(manifest)
    return job.model_copy(update={"status": status or Status()})


def make_pod(index: int = 0, phase: str = "Running", *, attempt: int = 1, job: str = "demo", **fields: Any) -> PodView:
    defaults = {"node": f"node-{index}", "started_at": NOW - 100.0}
    if phase == "Pending":
        defaults = {"node": "", "started_at": None}
    if phase in ("Succeeded", "Failed"):
        defaults |= {"exit_code": 0 if phase == "Succeeded" else 1, "finished_at": NOW - 1.0}
    return PodView(name=pod_name(job, index, attempt), index=index, attempt=attempt, phase=phase, **(defaults | fields))


def make_lead(
    state: str = "running", *, step: int = 10, checkpoint: int = 0, attempt: int = 1, rounds: int = 0
) -> PodStatus:
    return PodStatus(
        job_uid=UID,
        attempt=attempt,
        state=state,
        progress=Progress(step=step, steps=100, loss=2.5, at="2027-01-15T08:00:00Z"),
        checkpoint=CheckpointStatus(step=checkpoint, path=f"/checkpoints/{checkpoint}-{attempt}"),
        restarts=[
            Restart(time=f"2027-01-15T07:59:0{i}Z", scope="round", pod="demo-0-1", exit_code=-9, reason="Signal9")
            for i in range(rounds)
        ],
    )


def after(job: DistributedTraining, step: Plan) -> DistributedTraining:
    """The job as it is read back after a plan's status was written."""
    return job if step.status is None else job.model_copy(update={"status": step.status})


def settle(job: DistributedTraining, observed: Observed, now: float = NOW, passes: int = 4) -> DistributedTraining:
    """The job after passes over one unchanged observation until the status stays."""
    for _ in range(passes):
        step = plan(job, observed, now)
        if step.status is None:
            return job
        job = after(job, step)
    raise AssertionError(f"the status still changes after {passes} passes over one observation")


def begun(**fields: Any) -> DistributedTraining:
    """A job whose first attempt is in the status, nothing made yet."""
    return settle(make_job(**fields), Observed(), NOW - 60.0)


def running(**fields: Any) -> DistributedTraining:
    """A job whose first attempt trains."""
    job = begun(**fields)
    pods = tuple(make_pod(index) for index in range(job.spec.workers.replicas))
    return settle(job, Observed(pods=pods, lead=make_lead()), NOW - 30.0)
