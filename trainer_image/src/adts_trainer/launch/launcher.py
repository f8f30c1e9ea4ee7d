"""The launcher: brings this pod's processes where the agreement wants them, and says how they are. No torch here."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from adts_api.contract import ExitCode
from adts_api.pod_status import PodState, PodStatus
from adts_trainer.context import RankContext
from adts_trainer.launch import machine, status
from adts_trainer.launch.failures import Place, failure_of, too_early
from adts_trainer.launch.link import Follower, Lead
from adts_trainer.launch.member import Aim, Goal, Identity, Member
from adts_trainer.launch.messages import Decision, Failure, Order, Report
from adts_trainer.launch.output import Writer
from adts_trainer.launch.pulse import Pulse
from adts_trainer.launch.ranks import Ended, Ranks
from adts_trainer.launch.run_folder import run_folder
from adts_trainer.launch.server import build_app, serve
from adts_trainer.launch.settings import LauncherSettings
from adts_trainer.launch.stacks import collect_stacks

TICK_SECONDS = 0.25
"""Between two looks at clock and heartbeats; everything else wakes the launcher at once."""


@dataclass(frozen=True)
class Outcome:
    """How the pod ended."""

    exit_code: int
    message: str


class Launcher:
    """One pod's launcher. `run` does everything; status, stacks and exchange are what the HTTP server asks."""

    def __init__(self, settings: LauncherSettings, config_path: Path, run_dir: Path, writer: Writer) -> None:
        self._settings, self._config_path, self._run_dir, self._writer = settings, config_path, run_dir, writer
        launcher = secrets.token_hex(8)
        identity = Identity(settings.node_rank, settings.job_uid, settings.attempt, launcher, settings.lead)
        self._member = Member(identity, settings.limits, time.monotonic())
        self._wake = asyncio.Event()
        self._link = (
            Lead(settings, self._member, self._on_restart)
            if settings.is_lead
            else Follower(settings, self._member, self._wake.set)
        )
        self._ranks = Ranks(on_line=writer.write, on_end=self._on_end)
        self._pulse = Pulse()
        self._outcome: Outcome | None = None
        self._interrupts = 0
        self._told_to_leave = False
        self._memory_kills = 0

    @property
    def job_name(self) -> str:
        return self._settings.job_name

    @property
    def token(self) -> str:
        return self._settings.token

    async def run(self) -> Outcome:
        """Until the end of the pod. Raises PortTakenError or ConfigError; leaves no process behind."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        runner, port = await serve(build_app(self), self._settings.bind_address, self._settings.port)
        self._introduce(port)
        try:
            self._outcome = await self._steer()
            if self._interrupts < 2:
                await self._link.leave()
            return self._outcome
        finally:
            await self._clear()
            await runner.cleanup()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _steer(self) -> Outcome:
        """Follows the goal until it is to exit."""
        while self._interrupts < 2:
            self._wake.clear()
            self._pulse.take()
            self._member.step = self._pulse.step
            self._link.sync()
            goal = self._member.advance(time.monotonic())
            if goal.aim is Aim.EXIT:
                return Outcome(goal.exit_code, goal.message)
            if await self._pursue(goal):
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK_SECONDS)
        return Outcome(ExitCode.INTERRUPTED, "interrupted twice: nothing was saved")

    async def _pursue(self, goal: Goal) -> bool:
        """Brings the processes nearer to the goal; True if that changed what there is to tell."""
        match goal.aim:
            case Aim.RUN if goal.round > self._member.round:
                await self._start(goal.round)
                return True
            case Aim.DRAIN:
                self._told_to_leave = True
                self._ranks.terminate()  # again and again: a process that was just forked may not listen yet
            case Aim.IDLE:
                self._ranks.kill()
        return False

    async def _start(self, round_: int) -> None:
        contexts = [self._context(local, round_) for local in range(self._settings.local_world_size)]
        self._pulse.begin(contexts)
        self._memory_kills = machine.memory_kills()
        self._member.started(round_, len(contexts))
        try:
            await self._ranks.start(contexts, self._settings.target, str(self._config_path))
        except (OSError, EOFError) as error:
            reason = f"could not be forked: {type(error).__name__} {error}"
            for context in contexts:
                if context.rank not in self._ranks.pids:
                    self._on_end(Ended(context.rank, ExitCode.CRASH, False, reason))

    def _context(self, local_rank: int, round_: int) -> RankContext:
        settings = self._settings
        return RankContext(
            rank=settings.node_rank * settings.local_world_size + local_rank,
            local_rank=local_rank,
            world_size=settings.world_size,
            local_world_size=settings.local_world_size,
            node_rank=settings.node_rank,
            nnodes=settings.nnodes,
            master_addr=settings.master_addr,
            master_port=settings.master_port,
            job_name=settings.job_name,
            job_uid=settings.job_uid,
            attempt=settings.attempt,
            round=round_,
            device=settings.device,
            threads=settings.threads,
            run_dir=self._run_dir,
            start_timeout_seconds=settings.limits.start_seconds,
        )

    def _on_end(self, ended: Ended) -> None:
        """A process is reaped: a failure, unless it ended well, or by our hand, or before it had anything to save."""
        self._pulse.take()
        self._member.step = max(self._member.step, self._pulse.step)
        beat = self._pulse.beat_of(ended.rank)
        ended = too_early(ended, beat)
        left = ended.code == -signal.SIGTERM and self._told_to_leave
        failure = None
        if not (ended.code in (ExitCode.OK, ExitCode.PREEMPTED) or ended.killed or left):
            settings = self._settings
            failure = failure_of(
                ended,
                beat,
                Place(settings.node_rank, settings.pod_name, settings.node_name),
                was_memory_kill=machine.memory_kills() > self._memory_kills,
                peak_bytes=machine.memory_peak_bytes(),
            )
            self._writer.say(str(failure).splitlines()[0])
        self._member.reaped(ended.code, failure, time.monotonic())
        self._wake.set()

    def _on_restart(self, cause: Failure) -> None:
        self._writer.say(f"round {self._member.round + 1}: all processes start again because of {cause}")

    def _on_signal(self, number: int) -> None:
        self._interrupts += number == signal.SIGINT
        name = signal.Signals(number).name
        self._writer.say(f"{name}: {'killing all processes' if self._interrupts > 1 else 'saving and leaving'}")
        self._member.stop(time.monotonic())
        self._wake.set()

    async def _clear(self) -> None:
        """Kills whatever is left and waits until it is reaped."""
        while self._ranks.pids:
            self._ranks.kill()
            await asyncio.sleep(0.01)

    def _introduce(self, port: int) -> None:
        settings = self._settings
        self._writer.say(
            f"job {settings.job_name}, attempt {settings.attempt}, node {settings.node_rank} of {settings.nnodes}: "
            f"processes on {settings.device}: {settings.local_world_size}, threads of each: {settings.threads}, "
            f"status at http://{settings.bind_address or 'localhost'}:{port}/status"
        )

    def status(self) -> PodStatus:
        """The state of the pod now."""
        self._pulse.take()
        memory, outcome = self._pulse.memory, self._outcome
        return PodStatus(
            job_uid=self._settings.job_uid,
            attempt=self._settings.attempt,
            round=max(0, self._member.round),
            state=self._state(),
            message=outcome.message if outcome else self._member.known.message,
            exit_code=outcome.exit_code if outcome else None,
            progress=memory.progress,
            checkpoint=memory.checkpoint,
            communication=memory.communication,
            restarts=self._link.restarts,
        )

    def _state(self) -> PodState:
        if self._outcome is not None:
            return "succeeded" if self._outcome.exit_code == ExitCode.OK else "failed"
        if self._member.is_draining:
            return "stopping"
        if self._pulse.is_training and self._member.known.order is Order.START:
            return "running"
        return "restarting" if self._member.round > 0 or self._member.known.order is Order.STOP else "starting"

    async def stacks(self) -> str:
        """Python stacks of the ranks."""
        return await collect_stacks(self._ranks, self._pulse.contexts)

    async def exchange(self, report: Report) -> Decision:
        """The decision after another launcher's report. Raises RefusedError."""
        decision = await self._link.exchange(report)
        self._wake.set()
        return decision


def launch(settings: LauncherSettings, config_path: Path, writer: Writer) -> Outcome:
    """Runs a pod to its end. The fork server should be warm already (`ranks.warm_up`)."""

    async def main() -> tuple[Outcome, PodStatus]:
        launcher = Launcher(settings, config_path, run_dir, writer)
        return await launcher.run(), launcher.status()

    with run_folder() as run_dir:
        outcome, last = asyncio.run(main())
    if settings.termination_path is not None:
        with contextlib.suppress(OSError):  # a courtesy: the exit code has the last word
            settings.termination_path.write_bytes(status.termination_message(last))
    return outcome
