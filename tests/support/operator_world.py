"""A small cluster in dictionaries, and an operator that sees it late: what the state machine of the core plays with.

The world keeps one job and its children, as an API server would: names are unique, every write has a version, a job is
written only over the version it was read at. The operator runs the real `reconcile` on caches that are filled by
events in order, by lists, and by the answers to its own writes. It can die, or lose an answer, at any write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adts_api.contract import LABEL_ATTEMPT, LABEL_INDEX, Reason
from adts_api.pod_status import PodStatus
from adts_api.v1alpha1 import DistributedTraining, Status
from adts_operator.core.observed import Observed, PodView, Refusal
from adts_operator.core.plan import Event, Plan
from adts_operator.reconciler import reconcile
from support.operator_jobs import NOW, make_lead

ENDED = ("Succeeded", "Failed")
SOMEBODY = "somebody"
QUOTA = Refusal(reason=Reason.QUOTA_EXCEEDED, message="exceeded quota: pods", is_permanent=False)
FORBIDDEN = Refusal(reason=Reason.POD_REFUSED, message="violates PodSecurity", is_permanent=True)


class Interruption(Exception):
    """A pass that came to a sudden end at one of its writes."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object other than the job."""

    kind: str
    name: str
    uid: int
    owner: str
    """UID of the job it belongs to."""
    version: int = 0
    attempt: int = 0
    view: PodView | None = None

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def is_live(self) -> bool:
        """A pod that runs or will, and that nobody deletes."""
        return self.view is not None and self.view.is_alive and self.view.gone_by is None


@dataclass
class World:
    """What the API server knows. Checks what must hold at every write of the operator."""

    replicas: int
    job: DistributedTraining | None = None
    things: dict[str, Thing] = field(default_factory=dict)
    events: deque[tuple[str, int, Any]] = field(default_factory=deque)
    """What the operator's watches have yet to deliver: key, version, and the new state or None."""
    now: float = NOW
    version: int = 0
    quota: int = 1000
    """Pods that may exist."""
    is_secured: bool = False
    """Whether every pod is refused for good."""
    step: int = 0
    checkpoint: int = 0
    status_writes: int = 0
    most_attempts: int = 1
    """One, and one more for every reason to begin another that the world gave."""

    def put_job(self, job: DistributedTraining) -> DistributedTraining:
        self.version += 1
        metadata = job.metadata.model_copy(update={"resource_version": str(self.version)})
        self.job = job.model_copy(update={"metadata": metadata})
        self.events.append(("job", self.version, self.job))
        return self.job

    def remove_job(self) -> None:
        self.version += 1
        self.job = None
        self.events.append(("job", self.version, None))

    def put(self, thing: Thing) -> Thing:
        self.version += 1
        thing = replace(thing, version=self.version)
        self.things[thing.key] = thing
        self.events.append((thing.key, self.version, thing))
        return thing

    def remove(self, key: str) -> None:
        self.version += 1
        del self.things[key]
        self.events.append((key, self.version, None))

    def pods(self) -> list[Thing]:
        return [it for it in self.things.values() if it.view is not None]

    def set_pod(self, pod: Thing, **changes: Any) -> Thing:
        assert pod.view is not None
        return self.put(replace(pod, view=replace(pod.view, **changes)))

    def delete_pod(self, pod: Thing, grace: float) -> None:
        """A pod that never ran is gone at once; another when its node says so."""
        assert pod.view is not None
        if pod.view.is_alive and pod.view.node:
            self.set_pod(pod, gone_by=min(self.now + grace, pod.view.gone_by or self.now + grace))
        else:
            self.remove(pod.key)

    def judge(self, manifest: dict[str, Any]) -> Refusal | None:
        if manifest["kind"] != "Pod":
            return None
        return FORBIDDEN if self.is_secured else QUOTA if len(self.pods()) >= self.quota else None

    def create(self, manifest: dict[str, Any], owner: str) -> Thing:
        """Makes what the operator asks for, after it checked that the job still is what it thinks."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        job = self.job
        assert job is not None
        assert job.metadata.uid == owner, "nothing is made for a job that is gone"
        labels = manifest["metadata"]["labels"]
        attempt = int(labels.get(LABEL_ATTEMPT, 0))
        view = None
        if kind == "Pod":
            index = int(labels[LABEL_INDEX])
            self._check_new_pod(job, index, attempt)
            view = PodView(name=name, index=index, attempt=attempt, phase="Pending")
        self.version += 1
        return self.put(Thing(kind=kind, name=name, uid=self.version, owner=owner, attempt=attempt, view=view))

    def write_status(self, status: Status) -> DistributedTraining:
        assert self.job is not None
        old, policy = self.job.status, self.job.spec.run_policy
        assert old.phase not in ENDED, "a job that is over stays as it is"
        assert status.attempt >= old.attempt, "attempts only grow"
        newest = max([old.attempt, *(it.attempt for it in self.pods() if it.owner == self.job.metadata.uid)])
        assert status.attempt <= newest + 1, "attempts grow one by one"
        assert old.failures <= status.failures <= policy.backoff_limit
        assert status.attempt <= self.most_attempts, "no attempt without a reason"
        assert sum(it.type in ("Complete", "Failed") and it.status == "True" for it in status.conditions) == (
            status.phase in ENDED
        )
        self.status_writes += 1
        return self.put_job(self.job.model_copy(update={"status": status}))

    def _check_new_pod(self, job: DistributedTraining, index: int, attempt: int) -> None:
        status = job.status
        assert status.phase not in ENDED, "a finished job never starts again"
        assert status.attempt == attempt, "an attempt is written down before its pods are made"
        assert not status.workers.created, "nothing is made again once all pods were there"
        assert status.not_before, "a suspended job has no pods made"
        assert index < self.replicas
        owned = [it.view for it in self.pods() if it.owner == job.metadata.uid and it.view is not None]
        assert not [it for it in owned if (it.index, it.attempt) == (index, attempt)], "one pod per index and attempt"


@dataclass
class Note:
    """What was refused, for as long as it is believed."""

    generation: int
    refusal: Refusal | None
    foreign: tuple[str, ...]
    until: float


@dataclass
class Operator:
    """The shell around the core: `Jobs` and `Cluster` of the reconciler."""

    world: World
    cache: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    note: Note | None = None
    writes_left: int = 1000
    """Writes until the pass is interrupted."""
    is_answer_lost: bool = False
    """Whether the write at which it is interrupted was done."""
    writes: int = 0

    def list_everything(self) -> None:
        """A new watch begins with a list, which holds what was on its way."""
        world = self.world
        world.events.clear()
        self.cache = {**world.things} | ({"job": world.job} if world.job else {})
        self.versions = dict.fromkeys(self.cache, world.version)

    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.world.events))):
            self._take(*self.world.events.popleft())

    def run(self, *, writes: int = 1000, lose_answer: bool = False) -> float | None:
        """One pass. The protocols suspend nowhere here, so the coroutine needs no loop."""
        self.writes_left, self.is_answer_lost = writes, lose_answer
        passing = reconcile("default/demo", self, self, lambda: self.world.now)
        try:
            passing.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        except Interruption:
            return 0.0
        raise AssertionError("the pass waits for something")

    async def read(self, key: str) -> DistributedTraining | None:
        return self.cache.get("job")

    async def observe(self, job: DistributedTraining) -> Observed:
        ours = [it for key, it in self.cache.items() if key != "job" and it.owner == job.metadata.uid]
        note = self.note
        if note and (note.generation != job.metadata.generation or self.world.now >= note.until):
            note = None
        return Observed(
            pods=tuple(it.view for it in ours if it.view is not None),
            lead=self._lead(job, ours),
            children=frozenset(it.key for it in ours if it.kind in ("Service", "ConfigMap")),
            foreign=note.foreign if note else (),
            refusal=note.refusal if note else None,
        )

    async def try_out(self, job: DistributedTraining, objects: Sequence[dict[str, Any]]) -> Refusal | None:
        refusal = next(filter(None, map(self.world.judge, objects)), None)
        if refusal:
            self._remember(job, refusal)
        return refusal

    async def apply(self, job: DistributedTraining, plan: Plan) -> None:
        for it in plan.delete:
            self._delete(f"{it.kind}/{it.name}", it.grace_seconds)
        if not plan.apply or not self._refresh(job):
            return
        foreign: list[str] = []
        for it in plan.apply:
            refusal = self._create(job, it, foreign)
            if refusal or foreign:
                self._remember(job, refusal, tuple(foreign))
                return
        self.note = None

    async def write_status(self, job: DistributedTraining, status: Status) -> bool:
        if not self._refresh(job):
            return False
        self._before_write()
        self._answered("job", self.world.write_status(status))
        return True

    async def record(self, job: DistributedTraining, events: Sequence[Event]) -> None:
        """Events are for people."""

    async def delete(self, job: DistributedTraining) -> None:
        if self._refresh(job):
            self._before_write()
            self.world.remove_job()

    def _create(self, job: DistributedTraining, manifest: dict[str, Any], foreign: list[str]) -> Refusal | None:
        key = f"{manifest['kind']}/{manifest['metadata']['name']}"
        live = self.world.things.get(key)
        if live is not None:
            if live.owner == job.metadata.uid:
                self._answered(key, live, is_write=False)
            elif live.owner == SOMEBODY:  # what an older job under this name left goes in the end
                foreign.append(key)
            return None
        if refusal := self.world.judge(manifest):
            return refusal
        self._before_write()
        self._answered(key, self.world.create(manifest, job.metadata.uid))
        return None

    def _delete(self, key: str, grace: float) -> None:
        """Only the object that was seen: the deletion names its UID."""
        live, seen = self.world.things.get(key), self.cache.get(key)
        if live is None or seen is None or live.uid != seen.uid:
            return
        assert live.owner != SOMEBODY, "hands off what belongs to somebody else"
        self._before_write()
        if live.view is None:
            self.world.remove(key)
        else:
            self.world.delete_pod(live, grace)
        self._answered(key, self.world.things.get(key))

    def _refresh(self, job: DistributedTraining) -> bool:
        """Whether the job is exactly the one that was planned for."""
        live = self.world.job
        self._take("job", self.world.version, live)
        return live is not None and (live.metadata.resource_version, live.metadata.uid) == (
            job.metadata.resource_version,
            job.metadata.uid,
        )

    def _lead(self, job: DistributedTraining, ours: list[Thing]) -> PodStatus | None:
        """The answer of the pod of rank 0, if it really runs: whoever else has its address is not asked."""
        pods = [it for it in ours if it.view and it.view.index == 0 and it.view.phase == "Running"]
        if not pods:
            return None
        pod = max(pods, key=lambda it: it.attempt)
        live = self.world.things.get(pod.key)
        up = [it for it in self.world.pods() if it.view and it.attempt == pod.attempt and it.view.phase == "Running"]
        if live is None or live.uid != pod.uid or len(up) < self.world.replicas:
            return None
        answer = make_lead(step=self.world.step, checkpoint=self.world.checkpoint, attempt=pod.attempt)
        return answer.model_copy(update={"job_uid": job.metadata.uid})

    def _remember(
        self, job: DistributedTraining, refusal: Refusal | None, foreign: tuple[str, ...] = ()
    ) -> None:
        seconds = 300.0 if refusal and refusal.is_permanent else 30.0
        self.note = Note(job.metadata.generation, refusal, foreign, self.world.now + seconds)

    def _before_write(self) -> None:
        self.writes += 1
        if self.writes_left == 0 and not self.is_answer_lost:
            raise Interruption
        self.writes_left -= 1

    def _answered(self, key: str, state: Any, *, is_write: bool = True) -> None:
        if is_write and self.writes_left < 0 and self.is_answer_lost:
            raise Interruption
        self._take(key, self.world.version, state)

    def _take(self, key: str, version: int, state: Any) -> None:
        """Only what is newer counts, so that what was learned is never unlearned."""
        if version < self.versions.get(key, 0):
            return
        self.versions[key] = version
        if state is None:
            self.cache.pop(key, None)
        else:
            self.cache[key] = state
