"""Invariants of `plan` over a simulated cluster: pods that come up, fail and vanish at any moment, and suspensions."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from adts_api.contract import ConditionType
from adts_api.v1alpha1 import DistributedTraining
from adts_operator.core.conditions import holds
from adts_operator.core.observed import Observed, PodView
from adts_operator.core.plan import plan
from support.operator_jobs import NOW, after, make_job, make_lead, make_pod

CODES = st.sampled_from([0, 0, 0, 1, 4, 64, 66, 137])
STEPS = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 2), st.none()),
    st.tuples(st.just("exit"), st.integers(0, 2), CODES),
    st.tuples(st.just("vanish"), st.integers(0, 2), st.none()),
    st.tuples(st.just("drain"), st.integers(0, 2), st.none()),
    st.tuples(st.just("checkpoint"), st.integers(1, 100), st.none()),
    st.tuples(st.just("suspend"), st.booleans(), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 20.0, 400.0]), st.none()),
    st.tuples(st.just("crash"), st.none(), st.none()),
)


class Simulation:
    """A cluster that does what plans say, and a store that keeps what they write."""

    def __init__(self, backoff_limit: int) -> None:
        self.job = make_job(replicas=3, run_policy={"backoffLimit": backoff_limit})
        self.pods: dict[str, PodView] = {}
        self.made: set[str] = set()
        self.children: set[str] = set()
        self.now, self.checkpoint, self.suspended = NOW, 0, False

    def observed(self) -> Observed:
        lead = make_lead(attempt=self.job.status.attempt, checkpoint=self.checkpoint)
        up = all(self.has(index, "Running") for index in range(3))
        return Observed(pods=tuple(self.pods.values()), lead=lead if up else None, children=frozenset(self.children))

    def has(self, index: int, phase: str) -> bool:
        name = f"demo-{index}-{self.job.status.attempt}"
        return name in self.pods and self.pods[name].phase == phase

    def reconcile(self, *, crash: bool = False) -> None:
        """One pass; a crash loses everything after the status and the first creation."""
        before, seen = self.job, self.observed()
        step = plan(before, seen, self.now)
        self.check(before, seen)
        self.job = after(before, step)
        if step.status is not None and step.status.attempt > before.status.attempt:
            assert not step.apply, "a new attempt is written before anything is made"
            assert not step.delete
        assert len({it["metadata"]["labels"]["adts.dev/attempt"] for it in step.apply if it["kind"] == "Pod"}) <= 1
        for deletion in [] if crash else step.delete:
            if deletion.kind == "Pod":
                del self.pods[deletion.name]
        for number, it in enumerate(step.apply):
            if crash and number > 2:
                break
            self.make(it)

    def make(self, it: dict[str, object]) -> None:
        name = it["metadata"]["name"]  # type: ignore[index]
        if it["kind"] != "Pod":
            self.children.add(f"{it['kind']}/{name}")
            return
        assert name not in self.pods, "at most one live pod of a name"
        assert not self.job.status.workers.created, "nothing is made again once all pods were there"
        self.made.add(name)
        _, index, attempt = str(name).rsplit("-", 2)
        self.pods[str(name)] = make_pod(int(index), "Pending", attempt=int(attempt))

    def check(self, job: DistributedTraining, seen: Observed) -> None:
        """The same observation brings the status to rest within three passes, after which it asks for the same."""
        for _ in range(3):
            job = after(job, plan(job, seen, self.now))
        again = plan(job, seen, self.now)
        assert again.status is None
        assert again.events == ()
        assert again == plan(job, seen, self.now)

    def act(self, what: str, value: object, code: int | None) -> None:
        name = f"demo-{value}-{self.job.status.attempt}"
        pod = self.pods.get(name)
        if what == "start" and pod and pod.phase == "Pending":
            self.pods[name] = make_pod(pod.index, attempt=pod.attempt)
        elif what == "exit" and pod and pod.phase == "Running":
            phase = "Failed" if code else "Succeeded"
            self.pods[name] = make_pod(pod.index, phase, attempt=pod.attempt, exit_code=code, finished_at=self.now)
        elif what == "vanish" and pod:
            del self.pods[name]
        elif what == "drain" and pod and pod.is_alive:
            self.pods[name] = replace(pod, gone_by=self.now + 30.0)
        elif what == "checkpoint":
            self.checkpoint = max(self.checkpoint, int(str(value)))
        elif what == "suspend":
            policy = self.job.spec.run_policy.model_copy(update={"suspend": value})
            self.job = self.job.model_copy(update={"spec": self.job.spec.model_copy(update={"run_policy": policy})})
        elif what == "wait":
            self.now += float(str(value))


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=40), st.integers(0, 3))
def test_invariants(steps: list[tuple[str, object, int | None]], backoff_limit: int) -> None:
    cluster = Simulation(backoff_limit)
    attempts, ended = 0, ""
    for what, value, code in steps:
        cluster.act(what, value, code)
        cluster.reconcile(crash=what == "crash")
        status = cluster.job.status
        assert attempts <= status.attempt <= attempts + 1, "attempts grow one by one"
        assert not ended or status.phase == ended, "the end is the end"
        assert status.failures <= backoff_limit
        assert holds(status, ConditionType.COMPLETE) == (status.phase == "Succeeded")
        assert holds(status, ConditionType.FAILED) == (status.phase == "Failed")
        attempts = status.attempt
        ended = status.phase if status.phase in ("Succeeded", "Failed") else ""


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([1, 64, 137]), max_size=12), st.integers(0, 4))
def test_never_more_attempts_than_the_limit_allows(codes: list[int], backoff_limit: int) -> None:
    cluster = Simulation(backoff_limit)
    for code in codes:
        cluster.act("wait", 400.0, None)
        for _ in range(3):
            cluster.reconcile()
        cluster.act("start", 0, None)
        cluster.act("exit", 0, code)
        cluster.act("wait", 10.0, None)
        cluster.reconcile()
    attempts = {name.rsplit("-", 1)[1] for name in cluster.made}
    assert len(attempts) <= backoff_limit + 1
    if len(codes) > backoff_limit:
        assert cluster.job.status.phase == "Failed"


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=25), st.integers(0, 3))
@example([("start", 0, None)] * 3 + [("exit", 0, 0)], 0)
def test_from_any_state_a_healthy_cluster_finishes(steps: list[tuple[str, object, int | None]], limit: int) -> None:
    cluster = Simulation(limit)
    for what, value, code in [*steps, ("suspend", False, None)]:
        cluster.act(what, value, code)
        cluster.reconcile(crash=what == "crash")
    for _ in range(30):
        cluster.act("wait", 20.0, None)
        for index in range(3):
            cluster.act("start", index, None)
        for name, pod in list(cluster.pods.items()):  # what is being deleted goes in the end
            if pod.gone_by is not None and pod.gone_by < cluster.now:
                del cluster.pods[name]
        cluster.reconcile()
        if cluster.job.status.phase == "Running" or cluster.has(0, "Succeeded"):  # followers end with their lead
            for index in range(3):
                cluster.act("exit", index, 0)
    assert cluster.job.status.phase in ("Succeeded", "Failed")
