"""The children of jobs on a Kubernetes cluster. A `Cluster` for the reconciler.

What the API server refuses is remembered for a while and told by the next observation: the core decides what follows.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from adts_api.contract import LABEL_ATTEMPT, LABEL_MANAGED_BY, MANAGED_BY, TOKEN_FILE
from adts_api.pod_status import PodStatus
from adts_api.v1alpha1 import DistributedTraining
from adts_operator.cluster.api import Api, ApiError, Object, collection
from adts_operator.cluster.capabilities import Capabilities
from adts_operator.cluster.children import Children
from adts_operator.cluster.fallen_pods import FallenPods
from adts_operator.cluster.job_store import JobStore
from adts_operator.cluster.kubernetes_jobs import KubernetesJobs
from adts_operator.cluster.pod_groups import PodGroups
from adts_operator.cluster.pod_views import PodRecord, owner_uid
from adts_operator.core.gang import judge_trial
from adts_operator.core.observed import Observed, Refusal, effective_attempt
from adts_operator.core.plan import Deletion, Plan
from adts_operator.core.refusals import cannot_be_tried, classify
from adts_operator.progress import Progress

CONFLICT, NOT_FOUND = 409, 404
LEFTOVER_SECONDS = 1.0
"""Between two looks at an object of an older job that is on its way out."""
CONFLICT_SECONDS = 30.0
FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 60.0
JUDGED_AGAIN_SECONDS = 300.0
"""After which a refusal that only a change can lift is checked again: the change may be the cluster's."""


@dataclass
class _Note:
    """What the API server last refused of a job."""

    generation: int
    refusal: Refusal | None = None
    foreign: tuple[str, ...] = ()
    until: float = 0.0
    times: int = 0


@dataclass
class _Outcome:
    """What came of creating the objects of one pass."""

    refusal: Refusal | None = None
    foreign: list[str] = field(default_factory=list)
    waits: bool = False

    @property
    def is_stopped(self) -> bool:
        return self.refusal is not None or bool(self.foreign)


class KubernetesCluster:
    """Observes through the informers, acts through the API."""

    def __init__(
        self,
        api: Api,
        jobs: KubernetesJobs,
        store: JobStore,
        children: Children,
        progress: Progress,
        look_again: Callable[[str, float], None],
    ) -> None:
        """`look_again(key, seconds)` asks for another pass."""
        self._api, self._jobs, self._store = api, jobs, store
        self._children, self._progress, self._look_again = children, progress, look_again
        self._capabilities, self._pod_groups = Capabilities(api), PodGroups(api)
        self._notes: dict[str, _Note] = {}
        self._secrets: set[str] = set()
        self._fallen = FallenPods()

    async def observe(self, job: DistributedTraining) -> Observed:
        uid = job.metadata.uid
        present = [item.value for item in self._children.pods(uid)]
        attempt = effective_attempt(job.status.attempt, tuple(pod.view for pod in present))
        pods = self._fallen.join(uid, attempt, present)
        note = self._note(job)
        stored = self._store.get(_key(job))
        if note.refusal is not None or note.foreign:  # every pass asks: the queue keeps only the earliest time of a job
            self._look_again(_key(job), note.until - time.monotonic() + 0.05)
        return Observed(
            pods=tuple(pod.view for pod in pods),
            lead=self._lead_status(uid, attempt, pods),
            lead_is_silent=self._progress.is_silent(uid),
            children=self._children.names(uid) | await self._pod_groups.names(job),
            foreign=note.foreign,
            refusal=stored.refusal if stored and stored.refusal else note.refusal,
        )

    async def try_out(self, job: DistributedTraining, objects: Sequence[Object]) -> Refusal | None:
        """Asks the API server what it would say to the objects, without making them."""
        refusal = await self._capabilities.lacking(job)
        for it in objects:
            if refusal is None:
                refusal = await self._try(job, it)
        if refusal is not None:
            self._remember(job, refusal=refusal)
        return refusal

    async def apply(self, job: DistributedTraining, plan: Plan) -> None:
        """Deletes what is old; then makes what is missing, unless the job is no longer the one that was planned for."""
        await asyncio.gather(*(self._delete(job, it) for it in plan.delete))
        if not plan.apply:
            return
        if not await self._jobs.refresh(job):
            self._look_again(_key(job), 0.0)
            return
        outcome = _Outcome()
        around = [it for it in plan.apply if it["kind"] != "Pod"]
        pods = [it for it in plan.apply if it["kind"] == "Pod"]
        await asyncio.gather(*(self._create(job, it, outcome) for it in around))
        await asyncio.gather(*(self._create(job, it, outcome) for it in pods))
        if outcome.is_stopped:
            self._remember(job, refusal=outcome.refusal, foreign=tuple(outcome.foreign))
            self._look_again(_key(job), 0.0)
        else:
            self._notes.pop(job.metadata.uid, None)
        if outcome.waits:
            self._look_again(_key(job), LEFTOVER_SECONDS)

    def forget(self, living: set[str]) -> None:
        """Drops what is remembered of jobs that are gone."""
        self._notes = {uid: note for uid, note in self._notes.items() if uid in living}
        self._secrets &= living
        self._pod_groups.forget(living)
        self._fallen.forget(living)

    async def _try(self, job: DistributedTraining, wanted: Object) -> Refusal | None:
        try:
            answer = await self._api.create(_path(wanted), wanted, dry_run=True)
        except ApiError as error:
            if error.status == CONFLICT or cannot_be_tried(error.message):
                return None
            return _refusal(error, wanted)
        return judge_trial(job, answer)

    async def _create(self, job: DistributedTraining, wanted: Object, outcome: _Outcome) -> None:
        """Makes one object, unless an earlier one of the same pass was refused."""
        if outcome.is_stopped or (wanted["kind"] == "Secret" and job.metadata.uid in self._secrets):
            return
        body = _with_token(wanted) if wanted["kind"] == "Secret" else wanted
        try:
            answer = await self._api.create(_path(wanted), body)
        except ApiError as error:
            if error.status == CONFLICT and error.reason == "AlreadyExists":
                await self._look_at(job, wanted, outcome)
            elif error.is_transient:
                raise
            else:
                outcome.refusal = outcome.refusal or _refusal(error, wanted)
            return
        if wanted["kind"] == "Secret":
            self._secrets.add(job.metadata.uid)
        else:
            self._put(job, answer)

    def _put(self, job: DistributedTraining, live: Object) -> None:
        """Takes an object of ours as the API server tells it."""
        if live["kind"] == "PodGroup":
            self._pod_groups.made(job.metadata.uid, live["metadata"]["name"])
        else:
            self._children.put(live)

    async def _look_at(self, job: DistributedTraining, wanted: Object, outcome: _Outcome) -> None:
        """Whose is the object that has the name? Ours of this attempt is as good as made."""
        if wanted["kind"] == "Secret":  # its name holds our UID
            self._secrets.add(job.metadata.uid)
            return
        try:
            live = await self._api.get(_path(wanted, wanted["metadata"]["name"]))
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            outcome.waits = True
            return
        leaves = bool(live["metadata"].get("deletionTimestamp"))
        labels = live["metadata"].get("labels") or {}
        if owner_uid(live) == job.metadata.uid:
            same_attempt = labels.get(LABEL_ATTEMPT) == wanted["metadata"]["labels"].get(LABEL_ATTEMPT)
            outcome.waits = outcome.waits or leaves or not same_attempt
            self._put(job, live)
        elif leaves or (labels.get(LABEL_MANAGED_BY) == MANAGED_BY and owner_uid(live)):
            outcome.waits = True  # of an older job under this name; the garbage collector is on its way
        else:
            outcome.foreign.append(f"{wanted['kind']}/{wanted['metadata']['name']}")

    async def _delete(self, job: DistributedTraining, deletion: Deletion) -> None:
        namespace, uid = job.metadata.namespace, ""
        if deletion.kind == "Pod":
            uid = next((it.uid for it in self._children.pods(job.metadata.uid) if it.name == deletion.name), "")
        plural = f"{deletion.kind.lower()}s"
        path = collection(plural, namespace, deletion.name, group=deletion.group)
        answer = await self._api.delete(path, grace_seconds=deletion.grace_seconds, uid=uid)
        if answer.get("kind") == "Pod":
            self._children.put(answer)
        if deletion.kind == "PodGroup":
            self._pod_groups.deleted(job.metadata.uid, deletion.name)

    def _lead_status(self, job_uid: str, attempt: int, pods: Sequence[PodRecord]) -> PodStatus | None:
        """What the lead pod of the newest attempt left when it ended, else what it last answered."""
        left = (pod.last_status for pod in pods if pod.last_status is not None and pod.view.attempt == attempt)
        return next(left, self._progress.status(job_uid))

    def _note(self, job: DistributedTraining) -> _Note:
        """What is remembered; nothing where the job changed since, or the time is over."""
        note = self._notes.get(job.metadata.uid)
        if note is None or note.generation != job.metadata.generation:
            return _Note(job.metadata.generation)
        if time.monotonic() >= note.until:
            return replace(note, refusal=None, foreign=())
        return note

    def _remember(
        self, job: DistributedTraining, *, refusal: Refusal | None = None, foreign: tuple[str, ...] = ()
    ) -> None:
        times = self._note(job).times
        seconds = min(FIRST_RETRY_SECONDS * 2.0 ** min(times, 8), LONGEST_RETRY_SECONDS)
        if foreign:
            seconds = CONFLICT_SECONDS
        elif refusal is not None and refusal.is_permanent:
            seconds = JUDGED_AGAIN_SECONDS
        until = time.monotonic() + seconds
        self._notes[job.metadata.uid] = _Note(job.metadata.generation, refusal, foreign, until, times + 1)
        self._look_again(_key(job), seconds + 0.05)


def _refusal(error: ApiError, wanted: Object) -> Refusal:
    """What a refusal means for the job. Raises the error where it means nothing: then the pass is repeated."""
    refusal = classify(error.status, error.reason, error.message, error.details, wanted)
    if refusal is None:
        raise error
    return refusal


def _with_token(secret: Object) -> Object:
    return {**secret, "stringData": {TOKEN_FILE: secrets.token_hex(32)}}


def _path(thing: Object, name: str = "") -> str:
    plural, version = f"{thing['kind'].lower()}s", thing["apiVersion"]
    return collection(plural, thing["metadata"]["namespace"], name, group="" if version == "v1" else f"/apis/{version}")


def _key(job: DistributedTraining) -> str:
    return f"{job.metadata.namespace}/{job.metadata.name}"
