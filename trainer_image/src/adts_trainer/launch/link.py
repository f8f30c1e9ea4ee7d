"""How a launcher takes part in the agreement: the lead holds it, a follower asks for it over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Protocol

from adts_api.v1alpha1 import Restart
from adts_trainer.launch.agreement import Agreement, RefusedError
from adts_trainer.launch.client import LeadClient, LeadUnavailableError
from adts_trainer.launch.member import Member
from adts_trainer.launch.messages import Decision, Failure, Order, Report
from adts_trainer.launch.settings import LauncherSettings
from adts_trainer.launch.status import MAX_RESTARTS, restart

HOLD_SECONDS = 2.0
"""How long the lead holds back an answer that brings nothing new."""
RETRY_SECONDS = 0.25
FAREWELL_SECONDS = 2.0
LINGER_SECONDS = 10.0
"""How long a lead that is done waits for the others to hear of it."""
DRAINED_LINGER_SECONDS = 3.0
"""The same when told to stop: the kubelet's patience ends soon."""


class Link(Protocol):
    """The launcher's way to the agreement."""

    restarts: list[Restart]
    """Rounds that were followed by another one, the last ten."""

    def sync(self) -> None:
        """Tells what became of our processes, and brings back what there is; never waits."""

    async def exchange(self, report: Report) -> Decision:
        """Answers another launcher. Raises RefusedError."""

    async def leave(self) -> None:
        """Sees to it that everyone who must know knows, within a bound."""


class Lead:
    """The link of the launcher that holds the agreement."""

    def __init__(self, settings: LauncherSettings, member: Member, on_restart: Callable[[Failure], None]) -> None:
        self._agreement = Agreement(
            job_uid=settings.job_uid,
            attempt=settings.attempt,
            nnodes=settings.nnodes,
            limits=settings.limits,
            now=time.monotonic(),
        )
        self._member, self._on_restart = member, on_restart
        self._changed = asyncio.Event()
        self._noted = 0
        self.restarts: list[Restart] = []

    def sync(self) -> None:
        now = time.monotonic()
        before = self._agreement.decision.number
        self._member.hear(self._agreement.hear(self._member.report(), now), now)
        self._publish(before)

    async def exchange(self, report: Report) -> Decision:
        before = self._agreement.decision.number
        now = time.monotonic()
        self._agreement.hear(self._member.report(), now)  # forking takes long at times; who answers is not silent
        decision = self._agreement.hear(report, now)
        self._publish(before)
        if decision.number <= report.known and decision.order is not Order.FINISH:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), HOLD_SECONDS)
        return self._agreement.decision

    def _publish(self, before: int) -> None:
        """Wakes those whose answer is held back, and notes when a round had to be followed by another."""
        if self._agreement.decision.number == before:
            return
        self._changed.set()
        self._changed = asyncio.Event()
        for cause in self._agreement.causes[self._noted :]:
            self.restarts = [*self.restarts, restart(cause, time.time())][-MAX_RESTARTS:]
            self._on_restart(cause)
        self._noted = len(self._agreement.causes)

    async def leave(self) -> None:
        deadline = time.monotonic() + (DRAINED_LINGER_SECONDS if self._member.is_draining else LINGER_SECONDS)
        self.sync()
        while not self._agreement.everyone_knows(now := time.monotonic()) and now < deadline:
            await asyncio.sleep(0.02)


class Follower:
    """The link of every other launcher: one request is always under way, and replaced when there is news."""

    def __init__(self, settings: LauncherSettings, member: Member, on_decision: Callable[[], None]) -> None:
        self._member, self._on_decision = member, on_decision
        self._client = LeadClient(settings.lead, settings.token)
        self._news = asyncio.Event()
        self._told: tuple[object, ...] = ()
        self._task = asyncio.create_task(self._run(), name="follow")
        self.restarts: list[Restart] = []

    def sync(self) -> None:
        if self._member.facts != self._told:
            self._news.set()

    async def exchange(self, report: Report) -> Decision:
        raise RefusedError("this launcher does not lead the job: ask the one of node rank 0")

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(LeadUnavailableError, TimeoutError):
            await asyncio.wait_for(self._say_farewell(), FAREWELL_SECONDS)
        await self._client.close()

    async def _say_farewell(self) -> None:
        """Until the answer brings nothing new: the lead waits for those who do not know its last word."""
        known = None
        while known != self._member.known:
            known = self._member.known
            self._member.hear(await self._client.tell(self._member.report()), time.monotonic())

    async def _run(self) -> None:
        while True:
            self._news.clear()
            self._told = self._member.facts
            ask = asyncio.create_task(self._client.tell(self._member.report()))
            news = asyncio.create_task(self._news.wait())
            try:
                await asyncio.wait({ask, news}, return_when=asyncio.FIRST_COMPLETED)
                if ask.done():
                    await self._take(ask)
            finally:
                ask.cancel()
                news.cancel()
                await asyncio.gather(ask, news, return_exceptions=True)

    async def _take(self, ask: asyncio.Task[Decision]) -> None:
        try:
            self._member.hear(ask.result(), time.monotonic())
        except LeadUnavailableError as error:
            self._member.refused(str(error))
            await asyncio.sleep(RETRY_SECONDS)
        self._on_decision()
