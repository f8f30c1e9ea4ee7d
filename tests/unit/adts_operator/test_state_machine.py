"""The core and the reconcile step under faults at any moment, by hypothesis's state machine.

`World` and `Operator` of tests/support say what is modelled and check what must hold at every write. Here are the
things that happen, and what must be true when they stop happening.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from adts_api.v1alpha1 import Status
from support.operator_shell import Operator
from support.operator_world import ENDED, SOMEBODY, Thing, World

REPLICAS = 3
PASSES_TO_REST = 8
"""While the world stands still: each acts on what the one before wrote."""
PASSES_TO_END = 60
"""Of the healthy cluster, with PASS_SECONDS between them: delays after failures are part of the way."""
PASS_SECONDS = 45.0
WHICH = st.integers(0, 7)
TROUBLES = {
    "it crashes": lambda world, pod: world.end_pod(pod, 1),
    "it vanishes": World.force_pod,
    "it is evicted": World.evict_pod,
    "its node is cut off": World.cut_off_pod,
}


class Faults(RuleBasedStateMachine):
    """One job, its cluster and its operator."""

    @initialize(
        backoff_limit=st.sampled_from([0, 1, 3, 10]),
        runs=st.booleans(),
        troubles=st.lists(st.sampled_from(sorted(TROUBLES)), max_size=4),
    )
    def begin(self, backoff_limit: int, runs: bool, troubles: list[str]) -> None:
        """`troubles` are what still happens to the gang when all else goes well, see `teardown`."""
        self.world = World(replicas=REPLICAS)
        self.policy: dict[str, Any] = {"backoffLimit": backoff_limit}
        self.troubles = troubles
        self.jobs = 0
        self._create_job()
        self._start_operator()
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
        self._start_operator()

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
        self.world.most_attempts += seconds > 300.0  # by the deadline of a start

    @rule(which=WHICH)
    def pod_starts(self, which: int) -> None:
        if pod := self.world.pick(which, phase="Pending"):
            self.world.start_pods([pod])

    @rule()
    def gang_starts(self) -> None:
        self.world.start_pods(self.world.live("Pending"))

    @rule(which=WHICH, code=st.sampled_from([0, 0, 1, 4, 64, 66, 137]))
    def pod_ends(self, which: int, code: int) -> None:
        if pod := self.world.pick(which, phase="Running"):
            self.world.end_pod(pod, code)

    @rule()
    def gang_ends_well(self) -> None:
        running = self.world.live("Running")
        if len(running) == REPLICAS and len({pod.attempt for pod in running}) == 1:
            for pod in running:
                self.world.end_pod(pod, 0)

    @rule(which=WHICH, grace=st.sampled_from([0.0, 30.0]))
    def user_deletes_a_pod(self, which: int, grace: float) -> None:
        if pod := self.world.pick(which):
            self.world.most_attempts += 1
            self.world.delete_pod(pod, grace)

    @rule(which=WHICH, what=st.sampled_from(sorted(TROUBLES)))
    def pod_has_trouble(self, which: int, what: str) -> None:
        if pod := self.world.pick(which, phase="Running"):
            TROUBLES[what](self.world, pod)

    @rule(which=WHICH)
    def deleted_pod_goes(self, which: int) -> None:
        if pod := self.world.pick(which, is_deleted=True):
            self.world.remove(pod.key)

    @rule()
    def leftovers_are_collected(self) -> None:
        self.world.collect_garbage()

    @rule(step=st.integers(1, 100), saved=st.booleans())
    def training_advances(self, step: int, saved: bool) -> None:
        self.world.step = max(self.world.step, step)
        if saved:
            self.world.checkpoint = self.world.step

    @rule()
    def status_is_lost(self) -> None:
        """A backup was restored, and the pods know more than the job. Nobody does where they vanish before a pass."""
        job = self.world.job
        if job is not None and self.world.live("Running") and job.status.phase not in ENDED:
            self.world.most_attempts += 1
            self.world.put_job(job.model_copy(update={"status": Status()}))
            self.operator.list_everything()
            self.operator.run()

    # What others do.

    @rule(room=st.integers(0, REPLICAS), lasts=st.booleans())
    def quota_shrinks(self, room: int, lasts: bool) -> None:
        """A gang finds room for some of its pods."""
        self.world.quota = len(self.world.pods()) + room if lasts else 1000

    @rule(secured=st.sampled_from([False, False, True]))
    def namespace_is_secured(self, secured: bool) -> None:
        self.world.is_secured = secured

    @rule(what=st.sampled_from(["", "", "Service/demo", "ConfigMap/demo-2", "Pod/demo-1-1", "Pod/demo-1-2"]))
    def somebody_takes_a_name(self, what: str) -> None:
        kind, _, name = what.partition("/")
        if not what:
            self.world.remove_foreign()
        elif what not in self.world.things:
            self.world.put(Thing(kind=kind, name=name, uid=self.world.version + 1, owner=SOMEBODY))

    @rule(value=st.sampled_from([False, False, True]))
    def user_suspends(self, value: bool) -> None:
        if self.world.job is not None and self.world.job.spec.run_policy.suspend != value:
            self.world.most_attempts += 1
            self.world.change_policy(suspend=value)

    @rule(limit=st.integers(3, 5))
    def user_changes_the_limit(self, limit: int) -> None:
        if self.world.job is not None and limit >= self.world.job.status.failures:
            self.world.change_policy(backoff_limit=limit)

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
        live = [(it.owner, it.view.index, it.attempt) for it in self.world.pods() if it.view and it.is_live]
        assert len(live) == len(set(live))

    def teardown(self) -> None:
        """The faults stop: whatever was done before, the operator comes to rest and the job to an end."""
        if not hasattr(self, "world"):
            return
        self._rest_with_what_is_in_the_way()
        self._heal()
        for _ in range(PASSES_TO_END):
            self._healthy_pass()
        job = self.world.job
        assert job is not None
        suspended = job.spec.run_policy.suspend
        assert job.status.phase in (("Suspended", *ENDED) if suspended else ENDED), job.status.phase
        assert [it.key for it in self.world.pods() if it.is_live] == []
        assert [it.key for it in self.world.pods() if it.owner != job.metadata.uid] == []
        self._assert_rest()

    def _rest_with_what_is_in_the_way(self) -> None:
        """While the world stands still there is soon nothing left to do, and nobody holds half a gang."""
        for _ in range(PASSES_TO_REST):
            self.operator.list_everything()
            self.operator.run()
        self._assert_rest()
        job, note = self.world.job, self.operator.note
        if job is None or note is None or note.refusal is None or job.status.phase in ENDED:
            return
        held = [it for it in self.world.pods() if it.is_live and it.owner == job.metadata.uid]
        is_whole = len({it.attempt for it in held}) == 1 and job.status.workers.created
        assert not held or is_whole, "half a gang holds devices"

    def _assert_rest(self) -> None:
        before = self.operator.writes
        for _ in range(3):
            self.operator.run()
        assert self.operator.writes == before, "at rest nothing is written"

    def _heal(self) -> None:
        self.world.quota, self.world.is_secured = 1000, False
        self.world.remove_foreign()
        if self.world.job is None:
            self._create_job()
        self.world.change_policy()  # a new generation: what was refused is judged again

    def _healthy_pass(self) -> None:
        """Deleted pods go, others start; a gang that runs has its next trouble, or ends well."""
        world, job = self.world, self.world.job
        world.collect_garbage()
        for pod in world.pods():
            if pod.view and pod.view.gone_by is not None:
                world.remove(pod.key)
        self.gang_starts()
        if job is not None and job.status.phase == "Running":
            gang = [pod for pod in world.live("Running") if pod.attempt == job.status.attempt]
            if gang and self.troubles:
                TROUBLES[self.troubles.pop()](world, gang[-1])
            else:
                for pod in gang:
                    world.end_pod(pod, 0)
        self.operator.list_everything()
        world.now += PASS_SECONDS
        self.operator.run()

    def _start_operator(self) -> None:
        self.operator = Operator(self.world)
        self.operator.list_everything()

    def _create_job(self) -> None:
        self.jobs += 1
        self.world.create_job(f"uid-{self.jobs}", self.policy)


TestFaults = Faults.TestCase
TestFaults.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
