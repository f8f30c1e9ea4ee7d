"""The lead launcher's side of the agreement about rounds: a pure state machine, fed with reports and a clock.

    WAIT ── all are there ──> START 0 ── a failure ──> STOP 0 ── all reaped ──> START 1 ─ ...
                                 │                        │
                                 ├── told to stop ────────┴──> DRAIN ──> FINISH
                                 └── all finished, or a failure that no restart heals ──> FINISH

A round is announced only after every launcher either had the round before or heard that it is over, and has reaped
every process. What a launcher says about an older round never changes a newer one.
"""

from __future__ import annotations

from dataclasses import dataclass

from adts_api.contract import PERMANENT_EXIT_CODES, ExitCode
from adts_trainer.launch.messages import DRAIN_NUMBER, NO_ROUND, Decision, Failure, Order, Report, shorten

ENDS_THE_POD = frozenset(
    {
        ExitCode.PREEMPTED,
        ExitCode.START_TIMEOUT,
        ExitCode.DEVICE_MISSING,
        ExitCode.PORT_TAKEN,
        ExitCode.STORAGE,
        ExitCode.NO_PROGRESS,
        ExitCode.OUT_OF_MEMORY,
    }
)
"""Retryable codes that a restart on the same machine would only repeat."""


@dataclass(frozen=True)
class Limits:
    """Times in seconds, and the bound on restarts in place."""

    start_seconds: float = 600.0
    """All launchers must have found the lead by then."""
    silence_seconds: float = 20.0
    """A launcher that says nothing for so long counts as gone: the round is stopped."""
    peer_seconds: float = 60.0
    """A stopped round waits so long for launchers that have not reaped, or followers for their lead."""
    settle_seconds: float = 0.5
    """A lost peer is a consequence: so long a better cause of the same round may arrive."""
    drain_seconds: float = 110.0
    """Time to agree on a step and save it when told to stop."""
    barren_rounds: int = 3
    """Consecutive rounds without a new step that end the pod."""
    permanent: frozenset[int] = frozenset(PERMANENT_EXIT_CODES)
    """Exit codes another attempt would only repeat."""

    def ends_the_pod(self, code: int) -> bool:
        """Whether a failure with this code is not worth a restart in place."""
        return code in self.permanent or code in ENDS_THE_POD


class RefusedError(Exception):
    """A report that does not belong here; it changes nothing."""


class Agreement:
    """What the lead knows of all launchers, and its newest decision. Times are of any monotonic clock."""

    def __init__(self, *, job_uid: str, attempt: int, nnodes: int, limits: Limits, now: float) -> None:
        self._job_uid, self._attempt, self._nnodes, self._limits = job_uid, attempt, nnodes, limits
        self._since = now
        self._reports: dict[int, Report] = {}
        self._heard: dict[int, float] = {}
        self._cause: Failure | None = None
        self._cause_at = now
        self._best_step = self._round_step = 0
        self._barren = 0
        self.decision = Decision()
        self.causes: list[Failure] = []
        """Why each round that was followed by another one ended, oldest first."""

    @property
    def round(self) -> int:
        """The newest announced round."""
        return self.decision.round

    def everyone_knows(self, now: float) -> bool:
        """Whether every launcher that still reports has heard the newest decision."""
        return all(r.known >= self.decision.number or not self._fresh(r.node, now) for r in self._reports.values())

    def hear(self, report: Report, now: float) -> Decision:
        """Takes a report and answers with the decision after it. Raises RefusedError; stale reports are ignored."""
        self._check(report)
        newest = self._reports.get(report.node)
        if newest is None or report.sequence > newest.sequence:
            self._reports[report.node] = report
            self._heard[report.node] = now
            self._take(report, now)
        return self.advance(now)

    def advance(self, now: float) -> Decision:
        """The decision at this time."""
        before = -1
        while before != (before := self.decision.number):
            if self.decision.number < DRAIN_NUMBER and any(r.stopping for r in self._reports.values()):
                self._decide(Order.DRAIN, now)
            match self.decision.order:
                case Order.WAIT:
                    self._gather(now)
                case Order.START:
                    self._watch(now)
                case Order.STOP:
                    self._collect(now)
                case Order.DRAIN:
                    self._drain(now)
                case Order.FINISH:
                    pass  # the last word
        return self.decision

    def _check(self, report: Report) -> None:
        if (report.job_uid, report.attempt) != (self._job_uid, self._attempt):
            raise RefusedError(
                f"this is attempt {self._attempt} of job UID {self._job_uid!r}, "
                f"not attempt {report.attempt} of job UID {report.job_uid!r}"
            )
        if report.node >= self._nnodes:
            raise RefusedError(f"node rank {report.node} in a job of {self._nnodes} nodes")
        known = self._reports.get(report.node)
        if known is not None and known.launcher != report.launcher:
            raise RefusedError(f"node rank {report.node} is already taken by another launcher")
        if report.round > self.round or report.known > self.decision.number:
            raise RefusedError(f"round {report.round} was never announced here")

    def _take(self, report: Report, now: float) -> None:
        if report.round != self.round:
            return
        self._round_step = max(self._round_step, report.step)
        if report.failure is not None:
            self._blame(report.failure, now)

    def _blame(self, failure: Failure, now: float) -> None:
        """The first failure of a round is its cause, unless it is a mere consequence and a better one follows."""
        if self._cause is None:
            self._cause, self._cause_at = failure, now
        elif self._cause.is_consequence and not failure.is_consequence:
            self._cause = failure

    def _decide(self, order: Order, now: float, *, round_: int | None = None) -> None:
        self.decision = Decision(order=order, round=self.round if round_ is None else round_)
        self._since = now

    def _finish(self, now: float, exit_code: int, message: str) -> None:
        self.decision = Decision(order=Order.FINISH, round=self.round, exit_code=exit_code, message=shorten(message))
        self._since = now

    def _fresh(self, node: int, now: float) -> bool:
        return node in self._heard and now - self._heard[node] <= self._limits.silence_seconds

    def _absent(self, now: float) -> list[int]:
        return [node for node in range(self._nnodes) if not self._fresh(node, now)]

    def _gather(self, now: float) -> None:
        absent = self._absent(now)
        if self._cause is not None:
            self._finish(now, self._cause.exit_code, str(self._cause))
        elif not absent:
            self._decide(Order.START, now, round_=NO_ROUND + 1)
        elif now - self._since > self._limits.start_seconds:
            self._finish(
                now,
                ExitCode.START_TIMEOUT,
                f"waited {self._limits.start_seconds:g} s for the launchers of all {self._nnodes} nodes: "
                f"{_nodes(absent)} did not report; see that these pods run and reach this one",
            )

    def _watch(self, now: float) -> None:
        if self._cause is not None:
            if self._limits.ends_the_pod(self._cause.exit_code):
                self._finish(now, self._cause.exit_code, str(self._cause))
            elif not self._cause.is_consequence or now - self._cause_at >= self._limits.settle_seconds:
                self._decide(Order.STOP, now)
        elif len(self._reports) == self._nnodes and all(self._has_finished(r) for r in self._reports.values()):
            self._finish(now, ExitCode.OK, "")
        elif absent := self._absent(now):
            seconds = self._limits.silence_seconds
            message = f"the launcher of {_nodes(absent)} was silent for {seconds:g} s"
            self._blame(Failure(node=absent[0], exit_code=ExitCode.LOST_PEER, message=message), now)
            self._decide(Order.STOP, now)

    def _has_finished(self, report: Report) -> bool:
        return report.round == self.round and report.finished and report.alive == 0

    def _has_reaped(self, report: Report) -> bool:
        """A launcher that neither had the round nor heard that it is over may still start it."""
        return report.alive == 0 and (report.round == self.round or report.known >= self.decision.number)

    def _collect(self, now: float) -> None:
        assert self._cause is not None, "a round is stopped for a cause"
        missing = [n for n in range(self._nnodes) if not (self._fresh(n, now) and self._has_reaped(self._reports[n]))]
        if self._limits.ends_the_pod(self._cause.exit_code):
            self._finish(now, self._cause.exit_code, str(self._cause))
        elif not missing:
            self._next_round(self._cause, now)
        elif now - self._since > self._limits.peer_seconds:
            self._finish(
                now,
                ExitCode.LOST_PEER,
                f"{_nodes(missing)} did not stop round {self.round} within {self._limits.peer_seconds:g} s; "
                f"the round ended because of {self._cause}",
            )

    def _next_round(self, cause: Failure, now: float) -> None:
        self._barren = 0 if self._round_step > self._best_step else self._barren + 1
        self._best_step = max(self._best_step, self._round_step)
        if self._barren >= self._limits.barren_rounds:
            self._finish(
                now,
                ExitCode.NO_PROGRESS,
                f"{self._barren} rounds in place without a new step after step {self._best_step}; the last: {cause}",
            )
            return
        self.causes.append(cause)
        self._cause, self._round_step = None, 0
        self._decide(Order.START, now, round_=self.round + 1)

    def _drain(self, now: float) -> None:
        """Nobody waits for launchers that never came: there is nothing of theirs to save."""
        here = self._reports.values()
        quiet = all(r.alive == 0 and (r.stopping or r.known >= DRAIN_NUMBER) for r in here)
        if not quiet and now - self._since <= self._limits.drain_seconds:
            return
        if len(self._reports) == self._nnodes and all(self._has_finished(r) for r in here):
            self._finish(now, ExitCode.OK, "")
        elif self._cause is not None and self._cause.exit_code in self._limits.permanent:
            self._finish(now, self._cause.exit_code, str(self._cause))
        else:
            not_all = f"; not every process could save: {self._cause}" if self._cause is not None else ""
            self._finish(now, ExitCode.PREEMPTED, f"told to stop{not_all}")


def _nodes(nodes: list[int]) -> str:
    """`node 3`, or `nodes 1, 2, 5` with at most eight of them named."""
    named = ", ".join(map(str, nodes[:8])) + (f" and {len(nodes) - 8} more" if len(nodes) > 8 else "")
    return f"node{'s' if len(nodes) > 1 else ''} {named}"
