"""Asks the lead pod of every job that runs how far it is. Silence is told as silence, never as a hang."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError

from adts_api.pod_status import PodStatus

TICK_SECONDS = 1.0
SHORTEST_SECONDS = 10.0
SECONDS_PER_JOB = 0.06
"""So that a thousand jobs are asked 17 times a second, no more."""
EAGER_SECONDS = 1.0
"""Between two questions to a job that starts: people wait for it."""
EAGER_TIMES = 60
SILENT_SECONDS = 30.0
SILENT_TIMES = 3
AT_ONCE = 32
TIMEOUT_SECONDS = 3.0
LARGEST_ANSWER = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Lead:
    """Where the lead pod of a job answers."""

    job_key: str
    namespace: str
    pod: str
    ip: str
    port: int


Ask = Callable[[Lead], Awaitable[bytes]]
"""Raises OSError, TimeoutError or aiohttp.ClientError where there is no answer."""


@dataclass(kw_only=True)
class _Talk:
    """What is known of one lead pod."""

    lead: Lead | None = None
    """None while there is no lead pod that could be asked."""
    status: PodStatus | None = None
    heard_at: float = 0.0
    next_at: float = 0.0
    asked: int = 0
    unanswered: int = 0
    is_silent: bool = False
    is_asking: bool = False


class Progress:
    """The newest answers of the lead pods, by the UID of their job."""

    def __init__(
        self,
        jobs: Callable[[], Iterable[tuple[str, str]]],
        find_lead: Callable[[str], Lead | None],
        ask: Ask,
        on_news: Callable[[str], None],
    ) -> None:
        """`jobs` tells UID and key of those to ask; `on_news` gets the key of a job whose answer changed."""
        self._jobs, self._find_lead, self._ask, self._on_news = jobs, find_lead, ask, on_news
        self._talks: dict[str, _Talk] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._asking: set[asyncio.Task[None]] = set()

    def status(self, job_uid: str) -> PodStatus | None:
        """The newest answer of a job's lead pod."""
        talk = self._talks.get(job_uid)
        return talk.status if talk else None

    def is_silent(self, job_uid: str) -> bool:
        """Whether a lead pod that runs has not answered for so long that people should know."""
        talk = self._talks.get(job_uid)
        return talk is not None and talk.is_silent

    async def run(self) -> None:
        """Asks for ever."""
        while True:
            now = time.monotonic()
            jobs = dict(self._jobs())
            for uid in self._talks.keys() - jobs.keys():
                del self._talks[uid]
            interval = max(SHORTEST_SECONDS, len(jobs) * SECONDS_PER_JOB)
            for uid, key in jobs.items():
                talk = self._talks.get(uid)
                if talk is None or (talk.next_at <= now and not talk.is_asking):
                    self._start(uid, key, interval, now)
            await asyncio.sleep(TICK_SECONDS)

    def _start(self, uid: str, key: str, interval: float, now: float) -> None:
        """Asks the lead pod that the job has now; one that is new starts from nothing."""
        lead, talk = self._find_lead(key), self._talks.get(uid)
        if talk is None or talk.lead != lead:
            talk = self._talks[uid] = _Talk(lead=lead, heard_at=now)
        if lead is None:
            talk.next_at = now + EAGER_SECONDS
            return
        talk.is_asking = True
        task = asyncio.create_task(self._talk(talk, lead, interval))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _talk(self, talk: _Talk, lead: Lead, interval: float) -> None:
        before = (talk.status, talk.is_silent)
        try:
            async with self._slots:
                talk.status = PodStatus.model_validate_json(await self._ask(lead))
            talk.heard_at, talk.unanswered, talk.is_silent = time.monotonic(), 0, False
        except (OSError, TimeoutError, aiohttp.ClientError, ValidationError):
            talk.unanswered += 1
            silent_for = time.monotonic() - talk.heard_at
            talk.is_silent = talk.unanswered >= SILENT_TIMES and silent_for > SILENT_SECONDS
        talk.asked += 1
        talk.is_asking = False
        trains = talk.status is not None and talk.status.state == "running"
        eager = not trains and talk.asked < EAGER_TIMES
        talk.next_at = time.monotonic() + (EAGER_SECONDS if eager else interval * random.uniform(0.9, 1.0))
        if (talk.status, talk.is_silent) != before:
            self._on_news(lead.job_key)


async def ask_pod(session: aiohttp.ClientSession, lead: Lead) -> bytes:
    """The body of the launcher's /status, from the pod's own address."""
    host = f"[{lead.ip}]" if ":" in lead.ip else lead.ip
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with session.get(f"http://{host}:{lead.port}/status", timeout=timeout) as response:
        response.raise_for_status()
        return await response.content.read(LARGEST_ANSWER)
