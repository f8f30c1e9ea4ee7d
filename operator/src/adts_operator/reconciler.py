"""The one level-triggered reconcile step, the same on a cluster and on a laptop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from adts_operator.cluster.base import Cluster, Jobs
from adts_operator.core.build import Defaults
from adts_operator.core.plan import plan


async def reconcile(
    key: str, jobs: Jobs, cluster: Cluster, clock: Callable[[], float], defaults: Defaults | None = None
) -> float | None:
    """Observe, plan, try, write the status, then act; returns the seconds after which to look again, if any.

    Where the cluster refuses the trial, what follows is planned instead. Where the status cannot be written nothing
    else happens: the plan was made from an old job.
    """
    job = await jobs.read(key)
    if job is None:
        return None
    observed = await cluster.observe(job)
    step = plan(job, observed, clock(), defaults)
    if step.trial and (refusal := await cluster.try_out(job, step.trial)):
        step = plan(job, replace(observed, refusal=refusal), clock(), defaults)
    if step.status is not None and not await jobs.write_status(job, step.status):
        return 0.0
    if step.events:
        await jobs.record(job, step.events)
    if step.delete or step.apply:
        await cluster.apply(job, step)
    if step.remove_job:
        await jobs.delete(job)
    return step.requeue_after
