"""Everything of ours in the namespaces we watch: pods, services and config maps, by the UID of their job."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from adts_operator.cluster.api import Api, collection
from adts_operator.cluster.pod_views import PodRecord, read_pod
from adts_operator.informer import Informer, Item

PLURALS = {"Service": "services", "ConfigMap": "configmaps"}
EVERYWHERE = ""
Exists = bool
"""Of a service or a config map it is enough that it is there."""


class Children:
    """One informer per kind and namespace, or per kind where the whole cluster is watched."""

    def __init__(self, api: Api, namespaces: Sequence[str], on_change: Callable[[str, bool], None]) -> None:
        """`on_change` gets the key of the job whose child changed, and whether the child ended or is gone.

        No namespaces means all.
        """

        def of_pod(key: str, pod: PodRecord | None) -> None:
            on_change(key, pod is None or not pod.view.is_alive)

        def of_other(key: str, other: Exists | None) -> None:
            on_change(key, other is None)

        spaces = list(namespaces) or [EVERYWHERE]
        self._pods = {it: Informer(api, collection("pods", it), read_pod, of_pod) for it in spaces}
        self._others = {
            kind: {it: Informer(api, collection(plural, it), lambda thing: True, of_other) for it in spaces}
            for kind, plural in PLURALS.items()
        }

    @property
    def is_synced(self) -> bool:
        """Whether everything was listed once: before that, what is not seen may still exist."""
        return all(informer.synced.is_set() for informer in self._all())

    def ages(self) -> dict[str, float]:
        """Seconds since the watch of each kind last heard of the API server, the oldest of its namespaces."""
        ages = {"pods": max(it.age for it in self._pods.values())}
        for kind, informers in self._others.items():
            ages[PLURALS[kind]] = max(it.age for it in informers.values())
        return ages

    def pods(self, job_uid: str) -> list[Item[PodRecord]]:
        """The pods of a job."""
        return [item for informer in self._pods.values() for item in informer.of_job(job_uid)]

    def names(self, job_uid: str) -> frozenset[str]:
        """The other children of a job, as `Kind/name`."""
        return frozenset(
            f"{kind}/{item.name}"
            for kind, informers in self._others.items()
            for informer in informers.values()
            for item in informer.of_job(job_uid)
        )

    def put(self, thing: Mapping[str, Any]) -> None:
        """Takes the answer to a request of ours, so that the next pass knows of it before the watch tells."""
        namespace = thing["metadata"]["namespace"]
        if thing["kind"] == "Pod":
            (self._pods.get(namespace) or self._pods[EVERYWHERE]).put(thing)
        elif thing["kind"] in self._others:
            informers = self._others[thing["kind"]]
            (informers.get(namespace) or informers[EVERYWHERE]).put(thing)

    def runs(self) -> list[Coroutine[Any, Any, None]]:
        """What keeps everything up to date, each for ever."""
        return [informer.run() for informer in self._all()]

    async def wait_synced(self) -> None:
        """Returns once everything was listed."""
        for informer in self._all():
            await informer.synced.wait()

    def _all(self) -> list[Informer[Any]]:
        return [*self._pods.values(), *(it for informers in self._others.values() for it in informers.values())]
