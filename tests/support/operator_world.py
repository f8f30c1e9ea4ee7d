"""A small cluster in dictionaries, for the state machine of the core: one job, its children, and what happens to them.

Names are unique and every write has a version, as with an API server. What must hold is checked at every write of the
operator.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from adts_api.contract import LABEL_ATTEMPT, LABEL_INDEX, Reason
from adts_api.v1alpha1 import DistributedTraining, Status
from adts_operator.core.observed import PodView, Refusal
from support.operator_jobs import NOW, make_job

ENDED = ("Succeeded", "Failed")
SOMEBODY = "somebody"
QUOTA = Refusal(reason=Reason.QUOTA_EXCEEDED, message="exceeded quota: pods", is_permanent=False)
FORBIDDEN = Refusal(reason=Reason.POD_REFUSED, message="violates PodSecurity", is_permanent=True)


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
    most_attempts: int = 1
    """One, and one more for every reason to begin another that the world gave."""
    completed: set[tuple[str, int]] = field(default_factory=set)
    """UID and attempt of the gangs that were written down as all there."""

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

    def live(self, phase: str) -> list[Thing]:
        return [it for it in self.pods() if it.is_live and it.view and it.view.phase == phase]

    def pick(self, which: int, *, phase: str = "", is_deleted: bool = False) -> Thing | None:
        """One of the pods, in the order of their names."""
        pods = [
            it
            for it in sorted(self.pods(), key=lambda it: it.name)
            if it.view and it.view.phase.startswith(phase) and (it.view.gone_by is not None) >= is_deleted
        ]
        return pods[which % len(pods)] if pods else None

    def create_job(self, uid: str, policy: dict[str, Any]) -> None:
        job = make_job(replicas=self.replicas, run_policy=policy)
        self.most_attempts = 1
        self.put_job(job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": uid})}))

    def change_policy(self, **changes: Any) -> None:
        if self.job is None:
            return
        spec, metadata = self.job.spec, self.job.metadata
        spec = spec.model_copy(update={"run_policy": spec.run_policy.model_copy(update=changes)})
        metadata = metadata.model_copy(update={"generation": metadata.generation + 1})
        self.put_job(self.job.model_copy(update={"spec": spec, "metadata": metadata}))

    def start_pods(self, pods: list[Thing]) -> None:
        for pod in pods:
            self.set_pod(pod, phase="Running", node="node-1", started_at=self.now)

    def end_pod(self, pod: Thing, code: int) -> None:
        self.most_attempts += code != 0
        self.set_pod(pod, phase="Failed" if code else "Succeeded", exit_code=code, finished_at=self.now)

    def evict_pod(self, pod: Thing) -> None:
        self.most_attempts += 1
        self.delete_pod(self.set_pod(pod, disrupted=True), 30.0)

    def cut_off_pod(self, pod: Thing) -> None:
        """Its node does not answer any more, and the node controller says so."""
        self.most_attempts += 1
        self.set_pod(pod, unreachable=True, disrupted=True, gone_by=self.now + 30.0)

    def force_pod(self, pod: Thing) -> None:
        """Deleted by force."""
        self.most_attempts += 1
        self.remove(pod.key)

    def collect_garbage(self) -> None:
        """The children of jobs that are gone go too."""
        uid = self.job.metadata.uid if self.job else ""
        for it in list(self.things.values()):
            if it.owner not in (uid, SOMEBODY):
                if it.view is not None:
                    self.delete_pod(it, 30.0)
                else:
                    self.remove(it.key)

    def remove_foreign(self) -> None:
        for it in list(self.things.values()):
            if it.owner == SOMEBODY:
                self.remove(it.key)

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
        uid = self.job.metadata.uid
        newest = max([old.attempt, *(it.attempt for it in self.pods() if it.owner == uid)])
        assert status.attempt <= newest + 1, "attempts grow one by one"
        assert old.failures <= status.failures <= policy.backoff_limit
        assert status.attempt <= self.most_attempts, "no attempt without a reason"
        assert sum(it.type in ("Complete", "Failed") and it.status == "True" for it in status.conditions) == (
            status.phase in ENDED
        )
        if status.workers.created:
            self.completed.add((uid, status.attempt))
        return self.put_job(self.job.model_copy(update={"status": status}))

    def _check_new_pod(self, job: DistributedTraining, index: int, attempt: int) -> None:
        status = job.status
        assert status.phase not in ENDED, "a finished job never starts again"
        assert status.attempt == attempt, "an attempt is written down before its pods are made"
        assert (job.metadata.uid, attempt) not in self.completed, "nothing is made again once all pods were there"
        assert status.not_before, "a suspended job has no pods made"
        assert index < self.replicas
        owned = [it.view for it in self.pods() if it.owner == job.metadata.uid and it.view is not None]
        assert not [it for it in owned if (it.index, it.attempt) == (index, attempt)], "one pod per index and attempt"
