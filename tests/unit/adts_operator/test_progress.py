"""Asking lead pods: how often, and what silence means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from adts_api.pod_status import PodStatus
from adts_operator import progress
from adts_operator.progress import Lead, Progress

LEAD = Lead(job_key="default/job", namespace="default", pod="job-0-1", ip="10.0.0.1", port=29400)


class Pods:
    """Lead pods that answer what they are told to."""

    def __init__(self, *answers: PodStatus | None) -> None:
        self.answers = list(answers)
        self.lead: Lead | None = LEAD
        self.jobs = [("u", LEAD.job_key)]
        self.asked: list[str] = []
        self.news: list[str] = []

    async def ask(self, lead: Lead) -> bytes:
        self.asked.append(lead.ip)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise OSError("no route")
        return answer.model_dump_json(by_alias=True).encode()

    def asking(self) -> Progress:
        return Progress(lambda: self.jobs, lambda key: self.lead, self.ask, self.news.append)

    async def watch(self, until: Callable[[Progress], bool]) -> Progress:
        asking = self.asking()
        task = asyncio.create_task(asking.run())
        async with asyncio.timeout(5):
            while not until(asking):
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return asking


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TICK": 0.001, "EAGER": 0.002, "SHORTEST": 0.02, "SILENT": 0.05}.items():
        monkeypatch.setattr(progress, f"{name}_SECONDS", value)


async def test_an_answer_is_kept_and_told_once() -> None:
    pods = Pods(PodStatus(state="starting"), PodStatus(state="running"))
    asking = await pods.watch(lambda it: len(pods.asked) > 6)
    assert asking.status("u") == PodStatus(state="running")
    assert pods.news == ["default/job"] * 2
    assert not asking.is_silent("u")


async def test_silence_is_told_after_a_while_and_ends_with_an_answer() -> None:
    pods = Pods(PodStatus(state="running"), None)
    asking = await pods.watch(lambda it: it.is_silent("u"))
    assert len(pods.asked) >= 1 + progress.SILENT_TIMES
    assert asking.status("u") == PodStatus(state="running")  # the last that was heard stays
    pods.answers = [PodStatus(state="running")]
    again = await pods.watch(lambda it: it.status("u") is not None)
    assert not again.is_silent("u")


async def test_without_a_lead_pod_nothing_is_known() -> None:
    pods = Pods(PodStatus(state="running"))
    asking = pods.asking()
    task = asyncio.create_task(asking.run())
    await asyncio.sleep(0.05)
    assert asking.status("u") is not None
    pods.lead = None
    await asyncio.sleep(0.05)
    assert asking.status("u") is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_new_lead_pod_starts_from_nothing() -> None:
    pods = Pods(PodStatus(state="running", attempt=1), None)
    asking = pods.asking()
    task = asyncio.create_task(asking.run())
    await asyncio.sleep(0.02)
    pods.lead = Lead(**{**vars(LEAD), "ip": "10.0.0.2"})
    await asyncio.sleep(0.05)
    assert pods.asked[-1] == "10.0.0.2"
    assert asking.status("u") is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
