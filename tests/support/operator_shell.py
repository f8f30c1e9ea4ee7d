"""An operator that sees the world late: the real `reconcile` on caches, as the shell around it keeps them.

The caches are filled by events in order, by lists, and by the answers to the operator's own writes. It can die, or
lose an answer, at any write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adts_api.pod_status import PodStatus
from adts_api.v1alpha1 import DistributedTraining, Status
from adts_operator.core.observed import Observed, Refusal
from adts_operator.core.plan import Event, Plan
from adts_operator.reconciler import reconcile
from support.operator_jobs import make_lead
from support.operator_world import SOMEBODY, Thing, World


class InterruptionError(Exception):
    """A pass that came to a sudden end at one of its writes."""


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
        except InterruptionError:
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
            self.world.most_attempts += 1  # what was made of the gang is let go
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
        """The answer of the pod of rank 0 once the gang is up, or what it left when it ended well."""
        well = ("Running", "Succeeded")
        pods = [it for it in ours if it.view and it.view.index == 0 and it.view.phase in well]
        if not pods:
            return None
        pod = max(pods, key=lambda it: it.attempt)
        live = self.world.things.get(pod.key)
        up = [it for it in self.world.pods() if it.view and it.attempt == pod.attempt and it.view.phase in well]
        if live is None or live.uid != pod.uid or len(up) < self.world.replicas:
            return None
        answer = make_lead(step=self.world.step, checkpoint=self.world.checkpoint, attempt=pod.attempt)
        return answer.model_copy(update={"job_uid": job.metadata.uid})

    def _remember(self, job: DistributedTraining, refusal: Refusal | None, foreign: tuple[str, ...] = ()) -> None:
        seconds = 300.0 if refusal and refusal.is_permanent else 30.0
        self.note = Note(job.metadata.generation, refusal, foreign, self.world.now + seconds)

    def _before_write(self) -> None:
        self.writes += 1
        if self.writes_left == 0 and not self.is_answer_lost:
            raise InterruptionError
        self.writes_left -= 1

    def _answered(self, key: str, state: Any, *, is_write: bool = True) -> None:
        if is_write and self.writes_left < 0 and self.is_answer_lost:
            raise InterruptionError
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
