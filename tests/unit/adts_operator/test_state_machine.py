"""The core and the reconcile step under faults at any moment, by hypothesis's state machine.

`World` and `Operator` of tests/support say what is modelled and check what must hold at every write. Here are the
things that happen, and what must be true when they stop happening.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from adts_api.v1alpha1 import DistributedTraining
from support.operator_jobs import make_job
from support.operator_world import ENDED, SOMEBODY, Operator, Thing, World

REPLICAS = 3
PASSES_TO_REST = 40
"""Of the healthy cluster, with PASS_SECONDS between them: delays after failures are part of the way."""
PASS_SECONDS = 45.0
WHICH = st.integers(0, 7)


class Faults(RuleBasedStateMachine):
    """One job, its cluster and its operator."""

    @initialize(backoff_limit=st.sampled_from([0, 1, 3, 10]), runs=st.booleans())
    def begin(self, backoff_limit: int, runs: bool) -> None:
        self.world = World(replicas=REPLICAS)
        self.policy: dict[str, Any] = {"backoffLimit": backoff_limit}
        self.jobs = 0
        self._create_job()
        self.operator = Operator(self.world)
        self.operator.list_everything()
        if runs:
            self.all_goes_well_for_a_while()

    # What the operator does, whole or in part.

    @rule(times=st.sampled_from([1, 1, 2]))
    def passes(self, times: int) -> None:
        """Twice: the same was delivered again."""
        for _ in range(times):
            self.operator.run()

    @rule(writes=st.integers(0, 6))
    def crash(self, writes: int) -> None:
        """It dies at a write; the one that starts after it remembers nothing and lists everything."""
        self.operator.run(writes=writes)
        self._restart()

    @rule(writes=st.integers(0, 6))
    def lost_answer(self, writes: int) -> None:
        """A write is done but its answer never comes: the pass ends, the caches know nothing of it."""
        self.operator.run(writes=writes, lose_answer=True)

    @rule(count=st.sampled_from([1, 2, 5, 1000]))
    def deliver(self, count: int) -> None:
        self.operator.deliver(count)

    @rule(lists=st.booleans())
    def watch_breaks(self, lists: bool) -> None:
        """What was on its way is lost; the caches stay as they are until the next list."""
        self.world.events.clear()
        if lists:
            self.operator.list_everything()

    @rule()
    def all_goes_well_for_a_while(self) -> None:
        """Without it chance alone would seldom bring a gang up."""
        for _ in range(4):
            self.operator.deliver(1000)
            self.operator.run()
            self.gang_starts()

    # What the cluster does.

    @rule(seconds=st.sampled_from([0.5, 5.0, 20.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        if seconds > 300.0:
            self.world.most_attempts += 1  # by the deadline of a start

    @rule(which=WHICH)
    def pod_starts(self, which: int) -> None:
        if pod := self._pick(which, phase="Pending"):
            self.world.set_pod(pod, phase="Running", node="node-1", started_at=self.world.now)

    @rule()
    def gang_starts(self) -> None:
        for pod in self._having("Pending"):
            self.world.set_pod(pod, phase="Running", node="node-1", started_at=self.world.now)

    @rule(which=WHICH, code=st.sampled_from([0, 0, 1, 4, 64, 66, 137]))
    def pod_ends(self, which: int, code: int) -> None:
        if pod := self._pick(which, phase="Running"):
            self._end(pod, code)

    @rule()
    def gang_ends_well(self) -> None:
        running = self._having("Running")
        if len(running) == REPLICAS and len({pod.attempt for pod in running}) == 1:
            for pod in running:
                self._end(pod, 0)

    @rule(which=WHICH, grace=st.sampled_from([0.0, 30.0]), disrupted=st.booleans())
    def pod_is_deleted(self, which: int, grace: float, disrupted: bool) -> None:
        """By a user, or by a drain."""
        if pod := self._pick(which):
            self.world.most_attempts += 1
            if disrupted:
                pod = self.world.set_pod(pod, disrupted=True)
            self.world.delete_pod(pod, grace)

    @rule(which=WHICH)
    def pod_vanishes(self, which: int) -> None:
        """Deleted by force."""
        if pod := self._pick(which):
            self.world.most_attempts += 1
            self.world.remove(pod.key)

    @rule(which=WHICH)
    def node_is_cut_off(self, which: int) -> None:
        if pod := self._pick(which, phase="Running"):
            self.world.most_attempts += 1
            self.world.set_pod(pod, unreachable=True, disrupted=True, gone_by=self.world.now + 30.0)

    @rule(which=WHICH)
    def deleted_pod_goes(self, which: int) -> None:
        if pod := self._pick(which, is_deleted=True):
            self.world.remove(pod.key)

    @rule()
    def leftovers_are_collected(self) -> None:
        self._collect_garbage()

    @rule(step=st.integers(1, 100), saved=st.booleans())
    def training_advances(self, step: int, saved: bool) -> None:
        self.world.step = max(self.world.step, step)
        if saved:
            self.world.checkpoint = self.world.step

    # What others do.

    @rule(room=st.integers(0, REPLICAS), lasts=st.booleans())
    def quota_shrinks(self, room: int, lasts: bool) -> None:
        """A gang finds room for some of its pods."""
        self.world.quota = len(self.world.pods()) + room if lasts else 1000
        self.world.most_attempts += 1

    @rule(secured=st.sampled_from([False, False, True]))
    def namespace_is_secured(self, secured: bool) -> None:
        self.world.is_secured = secured
        self.world.most_attempts += 1

    @rule(what=st.sampled_from(["", "", "Service/demo", "ConfigMap/demo-2", "Pod/demo-1-1", "Pod/demo-1-2"]))
    def somebody_takes_a_name(self, what: str) -> None:
        kind, _, name = what.partition("/")
        if not what:
            self._remove_foreign()
        elif what not in self.world.things:
            self.world.put(Thing(kind=kind, name=name, uid=self.world.version + 1, owner=SOMEBODY))

    @rule(value=st.sampled_from([False, False, True]))
    def user_suspends(self, value: bool) -> None:
        if self.world.job is not None and self.world.job.spec.run_policy.suspend != value:
            self.world.most_attempts += 1
            self._change_policy(suspend=value)

    @rule(limit=st.integers(3, 5))
    def user_changes_the_limit(self, limit: int) -> None:
        if self.world.job is not None and limit >= self.world.job.status.failures:
            self._change_policy(backoff_limit=limit)

    @rule(again=st.sampled_from([True, True, False]))
    def user_deletes_the_job(self, again: bool) -> None:
        """And creates it again under the same name, while the old one's pods are still there."""
        if self.world.job is not None and not again:
            self.world.remove_job()
        elif self.world.job is None:
            self._create_job()

    # What must hold.

    @invariant()
    def one_live_pod_per_index_and_attempt(self) -> None:
        if hasattr(self, "world"):
            live = [(it.owner, it.view.index, it.attempt) for it in self.world.pods() if it.view and it.is_live]
            assert len(live) == len(set(live))

    def teardown(self) -> None:
        """The faults stop: whatever was done before, the job comes to an end, and then nothing is done any more."""
        if not hasattr(self, "world"):
            return
        self._heal()
        if self.world.job is None:
            self._create_job()
        for _ in range(PASSES_TO_REST):
            self._healthy_pass()
        job, operator = self.world.job, self.operator
        assert job is not None
        suspended = job.spec.run_policy.suspend
        assert job.status.phase in (("Suspended", *ENDED) if suspended else ENDED), job.status.phase
        assert [it.key for it in self.world.pods() if it.is_live] == []
        assert [it.key for it in self.world.pods() if it.owner != job.metadata.uid] == []
        writes = operator.writes
        for _ in range(3):
            self.world.now += PASS_SECONDS
            operator.run()
        assert operator.writes == writes, "at rest nothing is written"

    def _heal(self) -> None:
        self.world.quota, self.world.is_secured = 1000, False
        self._remove_foreign()
        self._change_policy()  # a new generation: what was refused is judged again

    def _healthy_pass(self) -> None:
        world = self.world
        self._collect_garbage()
        for pod in world.pods():
            if pod.view and pod.view.gone_by is not None:
                world.remove(pod.key)
        for pod in self._having("Pending"):
            world.set_pod(pod, phase="Running", node="node-1", started_at=world.now)
        if world.job is not None and world.job.status.phase == "Running":
            for pod in self._having("Running"):
                self._end(pod, 0)
        self.operator.list_everything()
        world.now += PASS_SECONDS
        self.operator.run()

    # Helpers.

    def _create_job(self) -> None:
        self.jobs += 1
        self.world.most_attempts = 1
        job = make_job(replicas=REPLICAS, run_policy=self.policy)
        metadata = job.metadata.model_copy(update={"uid": f"{job.metadata.uid}-{self.jobs}"})
        self.world.put_job(job.model_copy(update={"metadata": metadata}))

    def _change_policy(self, **changes: Any) -> None:
        job: DistributedTraining | None = self.world.job
        if job is None:
            return
        policy = job.spec.run_policy.model_copy(update=changes)
        spec = job.spec.model_copy(update={"run_policy": policy})
        metadata = job.metadata.model_copy(update={"generation": job.metadata.generation + 1})
        self.world.put_job(job.model_copy(update={"spec": spec, "metadata": metadata}))

    def _restart(self) -> None:
        self.operator = Operator(self.world)
        self.operator.list_everything()

    def _end(self, pod: Thing, code: int) -> None:
        if code:
            self.world.most_attempts += 1
        phase = "Failed" if code else "Succeeded"
        self.world.set_pod(pod, phase=phase, exit_code=code, finished_at=self.world.now)

    def _having(self, phase: str) -> list[Thing]:
        return [it for it in self.world.pods() if it.is_live and it.view and it.view.phase == phase]

    def _pick(self, which: int, *, phase: str = "", is_deleted: bool = False) -> Thing | None:
        """One of the pods of ours, in the order of their names."""
        pods = [
            it
            for it in sorted(self.world.pods(), key=lambda it: it.name)
            if it.view and it.view.phase.startswith(phase) and (it.view.gone_by is not None) >= is_deleted
        ]
        return pods[which % len(pods)] if pods else None

    def _collect_garbage(self) -> None:
        """The children of jobs that are gone go too."""
        uid = self.world.job.metadata.uid if self.world.job else ""
        for it in list(self.world.things.values()):
            if it.owner not in (uid, SOMEBODY):
                if it.view is not None:
                    self.world.delete_pod(it, 30.0)
                else:
                    self.world.remove(it.key)

    def _remove_foreign(self) -> None:
        for it in list(self.world.things.values()):
            if it.owner == SOMEBODY:
                self.world.remove(it.key)


TestFaults = Faults.TestCase
TestFaults.settings = settings(
    max_examples=1500, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
