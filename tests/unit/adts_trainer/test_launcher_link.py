"""How the launchers reach the agreement."""

from __future__ import annotations

import asyncio
import time

from adts_trainer.launch.agreement import Limits
from adts_trainer.launch.link import Lead
from adts_trainer.launch.member import Identity, Member
from adts_trainer.launch.messages import NO_ROUND, Order, Report
from adts_trainer.launch.settings import LauncherSettings

LIMITS = Limits(silence_seconds=1.0)


def report(sequence: int, known: int, round_: int) -> Report:
    return Report(
        node=1, job_uid="u", attempt=1, launcher="l1", sequence=sequence, known=known, round=round_, alive=round_ + 1
    )


async def test_a_lead_that_is_busy_starting_processes_is_not_silent() -> None:
    settings = LauncherSettings(config_path=None, job_uid="u", nnodes=2, limits=LIMITS)
    member = Member(Identity(0, "u", 1, "l0", ""), LIMITS, time.monotonic())
    lead = Lead(settings, member, on_restart=lambda cause: None)
    lead.sync()
    started = await lead.exchange(report(1, 0, NO_ROUND))
    assert started.order is Order.START
    lead.sync()
    member.started(started.round, 1)
    asking = []
    for sequence in range(2, 6):  # meanwhile it forks, and does not come to tell itself anything
        await asyncio.sleep(LIMITS.silence_seconds / 2)
        asking.append(asyncio.create_task(lead.exchange(report(sequence, started.number, started.round))))
    lead.sync()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert member.known.order is Order.START
