"""What the commands read from the API server: jobs, their pods and their events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from adts_api.contract import LABEL_JOB_UID
from adts_api.v1alpha1 import PLURAL, DistributedTraining
from adts_operator.cluster.api import Api, Object, collection
from adts_operator.cluster.job_store import judge
from adts_operator.core.times import to_seconds


async def read_job(api: Api, namespace: str, name: str) -> Object:
    """One job. Raises ApiError."""
    return await api.get(collection(PLURAL, namespace, name))


async def read_all(api: Api, path: str, **query: Any) -> list[Object]:
    """All objects of a collection, in the server's order. Raises ApiError."""
    return [thing async for page in api.pages(path, **query) for thing in page["items"]]


async def read_pods(api: Api, job: DistributedTraining) -> list[Object]:
    """The job's pods, of every attempt that still has some."""
    return await read_all(api, collection("pods", job.metadata.namespace), **pod_query(job))


async def read_events(api: Api, job: DistributedTraining, pods: Iterable[Object]) -> list[Object]:
    """Events of the job and warnings of these pods, the newest last."""
    path = collection("events", job.metadata.namespace)
    uids = [job.metadata.uid, *(pod["metadata"]["uid"] for pod in pods)]
    found = await asyncio.gather(*(read_all(api, path, fieldSelector=f"involvedObject.uid={uid}") for uid in uids))
    told = [*found[0], *(event for of_pod in found[1:] for event in of_pod if event.get("type") == "Warning")]
    return sorted(told, key=event_time)


def pod_query(job: DistributedTraining) -> dict[str, str]:
    """Selects the job's pods on the server, not those of an older job of its name."""
    return {"labelSelector": f"{LABEL_JOB_UID}={job.metadata.uid}"}


def typed(found: Object) -> DistributedTraining:
    """The job as a model. What this version cannot read in its spec has its default: a newer operator may know more."""
    job, _ = judge(found)
    return job


def event_time(event: Object) -> float:
    """Unix seconds when an event was last seen."""
    series = event.get("series") or {}
    times = (event.get("lastTimestamp"), series.get("lastObservedTime"), event.get("eventTime"))
    text = next((it for it in times if it), None) or event["metadata"].get("creationTimestamp") or ""
    return to_seconds(text, 0.0)
