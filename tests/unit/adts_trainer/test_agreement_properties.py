"""The agreement over a bad network: messages get lost, arrive late, twice and in any order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adts_api.contract import ExitCode
from adts_trainer.launch.agreement import Agreement, Limits
from adts_trainer.launch.member import Aim, Goal, Identity, Member
from adts_trainer.launch.messages import Decision, Failure, Order, Report

LIMITS = Limits(
    start_seconds=100, silence_seconds=20, peer_seconds=30, settle_seconds=0.5, drain_seconds=40, barren_rounds=3
)
RESTARTABLE = [0, 1, -9, ExitCode.LOST_PEER]
FINAL = [ExitCode.PREEMPTED, ExitCode.BAD_DATA, ExitCode.OUT_OF_MEMORY]


@dataclass
class Node:
    """A launcher with its processes, which obey the member's goal only when it is this node's turn."""

    member: Member
    processes: int
    doomed: bool = False
    exited: Goal | None = None
    decisions: list[Decision] = field(default_factory=list)


class BadNetwork(RuleBasedStateMachine):
    """One to three launchers; the rules are the network's whims, the kernel's, the user's, and the clock's."""

    @initialize(nnodes=st.sampled_from([1, 2, 2, 3]), processes=st.integers(1, 2))
    def begin(self, nnodes: int, processes: int) -> None:
        self.now = 0.0
        self.agreement = Agreement(job_uid="u", attempt=1, nnodes=nnodes, limits=LIMITS, now=0.0)
        self.nodes = [
            Node(Member(Identity(i, "u", 1, f"launcher {i}", "lead:1"), LIMITS, 0.0), processes) for i in range(nnodes)
        ]
        self.reports: list[Report] = []
        self.number = 0
        self.best, self.improvements = 0, 0

    # The network.

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.nodes))
        if node.exited is None:
            self.reports.append(node.member.report())

    @precondition(lambda self: self.reports)
    @rule(data=st.data(), twice=st.booleans())
    def deliver_report(self, data: st.DataObject, twice: bool) -> None:
        index = data.draw(st.integers(0, len(self.reports) - 1))
        report = self.reports[index] if twice else self.reports.pop(index)
        decision = self.lead_hears(report)
        self.nodes[report.node].decisions.append(decision)

    @precondition(lambda self: self.reports)
    @rule(data=st.data())
    def lose_report(self, data: st.DataObject) -> None:
        self.reports.pop(data.draw(st.integers(0, len(self.reports) - 1)))

    @precondition(lambda self: any(node.decisions for node in self.nodes))
    @rule(data=st.data(), twice=st.booleans(), lost=st.booleans())
    def deliver_decision(self, data: st.DataObject, twice: bool, lost: bool) -> None:
        node = data.draw(st.sampled_from([node for node in self.nodes if node.decisions]))
        index = data.draw(st.integers(0, len(node.decisions) - 1))
        decision = node.decisions[index] if twice else node.decisions.pop(index)
        if not lost:
            node.member.hear(decision, self.now)

    # The world.

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.lead_looks()

    @rule(data=st.data())
    def give_turn(self, data: st.DataObject) -> None:
        self.act(data.draw(st.sampled_from(self.nodes)))

    @rule()
    def all_goes_well_for_a_moment(self) -> None:
        """Without it the whims above would seldom let anything happen."""
        for node in self.nodes:
            if node.exited is None:
                node.member.hear(self.lead_hears(node.member.report()), self.now)
                self.act(node)
                while node.doomed and node.member.alive:
                    self.reap(node, -9)

    @rule(data=st.data(), code=st.sampled_from(RESTARTABLE))
    def process_ends(self, data: st.DataObject, code: int) -> None:
        alive = [node for node in self.nodes if node.member.alive]
        if alive:
            node = data.draw(st.sampled_from(alive))
            self.reap(node, -9 if node.doomed else code)

    @precondition(lambda self: self.agreement.round >= 2)
    @rule(data=st.data(), code=st.sampled_from(FINAL))
    def process_ends_the_pod(self, data: st.DataObject, code: int) -> None:
        self.process_ends(data, code)

    @rule(data=st.data(), steps=st.integers(1, 3))
    def train(self, data: st.DataObject, steps: int) -> None:
        node = data.draw(st.sampled_from(self.nodes))
        if node.member.alive:
            node.member.step += steps
            if node.member.step > self.best:
                self.best, self.improvements = node.member.step, self.improvements + 1

    @precondition(lambda self: self.agreement.round >= 2)
    @rule(data=st.data())
    def tell_to_stop(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.nodes)).member.stop(self.now)

    def act(self, node: Node) -> None:
        """Does what the member wants; kills are asynchronous: the process is only doomed."""
        if node.exited is not None:
            return
        goal = node.member.advance(self.now)
        match goal.aim:
            case Aim.EXIT:
                assert node.member.alive == 0
                node.exited = goal
            case Aim.RUN if goal.round > node.member.round:
                node.doomed = False
                node.member.started(goal.round, node.processes)
            case Aim.IDLE:
                node.doomed = node.member.alive > 0

    def reap(self, node: Node, code: int) -> None:
        identity = self.nodes.index(node)
        failure = None
        if code not in (0, ExitCode.PREEMPTED) and not node.doomed:
            failure = Failure(node=identity, rank=identity, exit_code=code, message=f"in round {node.member.round}")
        node.member.reaped(code, failure, self.now)

    def lead_hears(self, report: Report) -> Decision:
        return self.checked(lambda: self.agreement.hear(report, self.now))

    def lead_looks(self) -> None:
        self.checked(lambda: self.agreement.advance(self.now))

    def checked(self, change) -> Decision:
        before = self.agreement.decision
        decision = change()
        if decision.order is Order.START and decision.number > before.number:
            assert not any(node.member.alive for node in self.nodes), "announced before all were reaped"
            assert decision.round == before.round + 1
        return decision

    @invariant()
    def processes_of_one_round_only(self) -> None:
        assert len({node.member.round for node in self.nodes if node.member.alive}) <= 1

    @invariant()
    def decisions_only_grow(self) -> None:
        assert self.agreement.decision.number >= self.number
        self.number = self.agreement.decision.number

    @invariant()
    def a_round_ends_by_its_own_failures(self) -> None:
        for round_, cause in enumerate(self.agreement.causes):
            assert cause.rank is None or cause.message == f"in round {round_}"

    @invariant()
    def restarts_are_bounded(self) -> None:
        assert self.agreement.round < LIMITS.barren_rounds * (self.improvements + 1)

    def teardown(self) -> None:
        """From here on every message arrives: all end, and alike unless one had to give up by itself."""
        self.reports.clear()
        for _ in range(2000):
            if all(node.exited for node in self.nodes):
                break
            self.now += 0.2
            for node in self.nodes:
                self.live_well(node)
        assert all(node.exited for node in self.nodes), "not everyone ended"
        alone = [node for node in self.nodes if node.member.known.order is not Order.FINISH]
        codes = {node.exited.exit_code for node in self.nodes if node not in alone}
        assert codes <= {self.agreement.decision.exit_code}
        assert {node.exited.exit_code for node in alone} <= {
            ExitCode.LOST_PEER, ExitCode.START_TIMEOUT, ExitCode.PREEMPTED
        }  # fmt: skip
        if self.agreement.decision.exit_code == 0:
            assert all(node.member.report().finished for node in self.nodes), "success although not all finished"

    def live_well(self, node: Node) -> None:
        """One quick turn of a launcher on a good network; processes train well, save when told, die when killed."""
        if node.exited is None or not self.agreement.everyone_knows(self.now):
            node.member.hear(self.lead_hears(node.member.report()), self.now)
        self.act(node)
        if node.member.alive:
            drained = node.member.advance(self.now).aim is Aim.DRAIN
            self.reap(node, -9 if node.doomed else ExitCode.PREEMPTED if drained else 0)
        self.act(node)


TestBadNetwork = BadNetwork.TestCase
TestBadNetwork.settings = settings(
    max_examples=100, stateful_step_count=80, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
