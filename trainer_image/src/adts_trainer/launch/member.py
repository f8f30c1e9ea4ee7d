"""One launcher's side of the agreement: a pure state machine that says what its processes should be doing.

It hears decisions of the lead and what became of its own processes, and is asked for its goal whenever anything
changed. The launcher brings the processes there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from adts_api.contract import ExitCode
from adts_trainer.launch.agreement import Limits
from adts_trainer.launch.messages import NO_ROUND, Decision, Failure, Order, Report

DRAIN_PATIENCE = 1.02
"""A launcher whose processes are gone waits for the lead's word a little longer than they had to save."""


class Aim(StrEnum):
    """What the processes of this launcher should be doing."""

    IDLE = "idle"  # none may live: kill what does
    RUN = "run"  # live, in `Goal.round`
    DRAIN = "drain"  # save and leave
    EXIT = "exit"  # all are reaped: the launcher exits


@dataclass(frozen=True)
class Goal:
    """The aim, with the round to run or the exit code and the reason."""

    aim: Aim
    round: int = NO_ROUND
    exit_code: int = 0
    message: str = ""


@dataclass(frozen=True)
class Identity:
    """Who this launcher is; part of every report."""

    node: int
    job_uid: str
    attempt: int
    launcher: str
    lead: str
    """host:port of the lead's launcher, for messages."""


class Member:
    """State of one launcher. Times are of any monotonic clock."""

    def __init__(self, identity: Identity, limits: Limits, now: float) -> None:
        self._identity, self._limits = identity, limits
        self._born = self._contact = now
        self._met = False
        self._refusal = "it never answered"
        self._sequence = 0
        self._failure: Failure | None = None
        self._failure_at = now
        self._drain_at: float | None = None
        self._unfinished = 1
        self.known = Decision()
        self.round = NO_ROUND
        self.alive = 0
        self.step = 0
        self.stopping = False

    def hear(self, decision: Decision, now: float) -> None:
        """An answer of the lead. One that is older than what is known is a sign of life, no more."""
        self._met, self._contact = True, now
        if decision.number > self.known.number:
            self.known = decision
            if decision.order is Order.DRAIN:
                self._begin_drain(now)

    def refused(self, reason: str) -> None:
        """The lead could not be asked, or did not take us for one of its own."""
        self._refusal = reason

    def stop(self, now: float) -> None:
        """A signal told this launcher to stop."""
        self.stopping = True
        self._begin_drain(now)

    def _begin_drain(self, now: float) -> None:
        if self._drain_at is None:
            self._drain_at = now

    def started(self, round_: int, processes: int) -> None:
        """The processes of a round are about to be forked."""
        assert self.alive == 0, "a round starts only after the one before is reaped"
        assert round_ > self.round, "rounds only grow"
        self.round, self.alive, self.step = round_, processes, 0
        self._unfinished, self._failure = processes, None

    def failed(self, failure: Failure, now: float) -> None:
        """Something of the current round failed here. A better cause replaces a mere consequence."""
        if self._failure is None:
            self._failure, self._failure_at = failure, now
        elif self._failure.is_consequence and not failure.is_consequence:
            self._failure = failure

    def reaped(self, code: int, failure: Failure | None, now: float) -> None:
        """A process of the current round is gone. `failure` is None for one that ended well or that we killed."""
        self.alive -= 1
        if code == ExitCode.OK:
            self._unfinished -= 1
        elif code == ExitCode.PREEMPTED:
            self.stop(now)
        elif failure is not None:
            self.failed(failure, now)

    def advance(self, now: float) -> Goal:
        """What the processes should be doing at this time; notes it when the lead has been silent for too long."""
        if self.known.order is Order.FINISH:
            return self._leave(self.known.exit_code, self.known.message)
        silent = now - self._contact
        if self._met and silent > self._limits.silence_seconds + self._limits.peer_seconds:
            return self._leave(ExitCode.LOST_PEER, f"{self._lead} was silent for {silent:.0f} s: {self._refusal}")
        if not self._met and silent > self._limits.start_seconds:
            message = f"waited {self._limits.start_seconds:g} s for {self._lead}: {self._refusal}"
            return self._leave(ExitCode.START_TIMEOUT, message)
        if self._drain_at is not None:
            return self._drain(now - self._drain_at, now)
        if self.alive and silent > self._limits.silence_seconds:
            self.failed(self._lost_lead(silent), now)
        return self._train(now)

    def _train(self, now: float) -> Goal:
        if self.known.order is Order.START and self.known.round > self.round:
            return Goal(Aim.IDLE) if self.alive else Goal(Aim.RUN, self.known.round)
        if self.known.order is Order.STOP or self._has_failed(now):
            return Goal(Aim.IDLE)
        return Goal(Aim.RUN, self.round) if self.alive else Goal(Aim.IDLE)

    def _drain(self, seconds: float, now: float) -> Goal:
        """Without processes there is nothing to save, and a lead that was never met need not be waited for."""
        if self.alive == 0:
            patience = DRAIN_PATIENCE * self._limits.drain_seconds if self._met else 0.0
            return self._leave(ExitCode.PREEMPTED, "told to stop") if seconds >= patience else Goal(Aim.IDLE)
        if seconds > self._limits.drain_seconds:
            message = f"processes that had not saved after {self._limits.drain_seconds:g} s were killed"
            self.failed(Failure(node=self._identity.node, exit_code=ExitCode.CRASH, message=message), now)
            return Goal(Aim.IDLE)
        return Goal(Aim.IDLE) if self._has_failed(now) else Goal(Aim.DRAIN)

    def _has_failed(self, now: float) -> bool:
        """A lost peer gives the others a moment to say why before their processes are killed."""
        if self._failure is None:
            return False
        return not self._failure.is_consequence or now - self._failure_at >= self._limits.settle_seconds

    def _leave(self, code: int, message: str) -> Goal:
        code = ExitCode.PREEMPTED if self.stopping and code in (ExitCode.LOST_PEER, ExitCode.START_TIMEOUT) else code
        return Goal(Aim.IDLE) if self.alive else Goal(Aim.EXIT, exit_code=code, message=message)

    @property
    def _lead(self) -> str:
        return f"the lead's launcher at {self._identity.lead}"

    def _lost_lead(self, silent: float) -> Failure:
        message = f"{self._lead} was silent for {silent:.0f} s: {self._refusal}"
        return Failure(node=self._identity.node, exit_code=ExitCode.LOST_PEER, message=message)

    @property
    def is_draining(self) -> bool:
        """Whether its processes were told to save and leave."""
        return self._drain_at is not None

    @property
    def facts(self) -> tuple[object, ...]:
        """What the lead must hear of at once when it changes; the step can wait."""
        return (self.known.number, self.round, self.alive, self._unfinished, self.stopping, self._failure)

    def report(self) -> Report:
        """What the lead should know now."""
        self._sequence += 1
        return Report(
            node=self._identity.node,
            job_uid=self._identity.job_uid,
            attempt=self._identity.attempt,
            launcher=self._identity.launcher,
            sequence=self._sequence,
            known=self.known.number,
            round=self.round,
            alive=self.alive,
            finished=self._unfinished == 0 and self._failure is None,
            stopping=self.stopping,
            step=self.step,
            failure=self._failure,
        )
