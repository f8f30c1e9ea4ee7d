"""The loop of `adts run`: reconcile one job on this machine until it ends, or until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass

from adts_api.contract import ConditionType, ExitCode
from adts_api.v1alpha1 import DistributedTraining, Status
from adts_operator.cluster.local import LocalCluster
from adts_operator.cluster.local_jobs import LocalJob
from adts_operator.core.conditions import find_condition
from adts_operator.output import LogTail
from adts_operator.reconciler import reconcile
from adts_operator.view import View

POLL_SECONDS = 0.25
"""Between two looks at processes and the lead's status."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Interrupts:
    """How often the run was told to stop. Once: save and leave. Twice: leave."""

    count: int = 0

    def __post_init__(self) -> None:
        self.happened = asyncio.Event()

    def interrupt(self) -> None:
        self.count += 1
        self.happened.set()


async def run_local(jobs: LocalJob, cluster: LocalCluster, logs: LogTail, view: View) -> DistributedTraining:
    """The job when its run is over: Succeeded, Failed, or Suspended after an interruption. Leaves no process behind."""
    interrupts = Interrupts()
    loop = asyncio.get_running_loop()
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup means it
    for number in heard:
        loop.add_signal_handler(number, interrupts.interrupt)
    try:
        while True:
            wait = await reconcile(jobs.job.metadata.name, jobs, cluster, time.time)
            view.show(jobs.job, logs.read())
            if cluster.is_idle and _is_over(jobs.job.status, interrupts):
                break
            if interrupts.count > 1:
                view.say("interrupted again: killing everything")
                break
            if interrupts.happened.is_set():
                interrupts.happened.clear()
                grace = jobs.job.spec.run_policy.grace_period_seconds
                view.say(f"saving and stopping, at most {grace} s; interrupt again to kill")
                jobs.suspend()
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    interrupts.happened.wait(), POLL_SECONDS if wait is None else min(wait, POLL_SECONDS)
                )
    finally:
        cluster.kill_all()
        for number in heard:
            loop.remove_signal_handler(number)
        view.show(jobs.job, logs.read())
    return jobs.job


def exit_code(status: Status) -> int:
    """What `adts run` exits with."""
    if status.phase == "Succeeded":
        return ExitCode.OK
    if status.phase == "Failed":
        return status.exit_code or ExitCode.CRASH
    return ExitCode.INTERRUPTED


def why_failed(status: Status) -> str:
    """The message of the condition that ended the job."""
    failed = find_condition(status.conditions, ConditionType.FAILED)
    return f"{failed.reason}: {failed.message}" if failed else ""


def _is_over(status: Status, interrupts: Interrupts) -> bool:
    return status.phase in ("Succeeded", "Failed") or (status.phase == "Suspended" and interrupts.count > 0)
