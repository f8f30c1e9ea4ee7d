"""`python -m adts_operator`: health server, then the Lease, then everything that acts. Any of it ending ends all."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Any

from adts_api.contract import ExitCode
from adts_api.errors import AdtsError
from adts_operator.cluster.api import Api, TokenBucket
from adts_operator.cluster.events import EventRecorder
from adts_operator.controller import Controller
from adts_operator.health import EventLoopLag, Health, task_check
from adts_operator.leader import Leadership, make_identity
from adts_operator.logs import configure
from adts_operator.main import watch
from adts_operator.metrics import Metrics
from adts_operator.settings import Settings

logger = logging.getLogger("adts_operator")

FLUSH_SECONDS = 3.0


async def operate(settings: Settings) -> None:
    """Runs until SIGTERM, which is a good end, or until something ends that must not."""
    metrics = Metrics(job_metrics=settings.job_metrics)
    health = Health(metrics.registry, settings.health_port)
    lag = EventLoopLag()
    health.live("event loop", lag.check)
    await health.start()
    api = await Api.connect(bucket=TokenBucket(settings.api_rate, settings.api_burst), on_answer=metrics.on_answer)
    lease_api = await Api.connect(on_answer=metrics.on_answer)  # a renewal must not queue behind the pods of a job
    lease = Leadership(
        lease_api,
        namespace=settings.namespace,
        identity=make_identity(settings.pod_name),
        owner=_owner(settings),
    )
    metrics.watch_leader(lambda: lease.is_leader or not settings.leader_election)
    recorder = EventRecorder(api, instance=settings.pod_name)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    tasks = [_start(stopped.wait(), "stop"), _start(lag.run(), "event loop lag"), _start(recorder.run(), "events")]
    try:
        if settings.leader_election and not await _first(lease.acquire(), tasks):
            return
        controller = Controller(api, settings, metrics, recorder)
        health.live("watches", controller.problem)
        health.ready("lists", controller.not_ready)
        if settings.leader_election:
            tasks.append(_start(lease.hold(), "lease"))
        tasks.append(_start(controller.run(), "controller"))
        for task in tasks[1:]:
            health.live(task.get_name(), task_check(task))
        await _first(watch(controller, settings.watch_namespaces), tasks)
    finally:
        await recorder.flush(FLUSH_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await lease.release()
        await health.stop()
        await api.close()
        await lease_api.close()


async def _first(work: Any, others: list[asyncio.Task[Any]]) -> bool:
    """Whether `work` ended before all others; if not, it is cancelled. Raises what the first one to end raised."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait([task, *others], return_when=asyncio.FIRST_COMPLETED)
    is_first = task in done
    if not is_first:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for ended in done:
        ended.result()
        if ended.get_name() not in ("stop", task.get_name()):
            raise RuntimeError(f"task {ended.get_name()} has ended")
    return is_first


def _start(work: Any, name: str) -> asyncio.Task[Any]:
    return asyncio.create_task(work, name=name)


def _owner(settings: Settings) -> dict[str, Any] | None:
    if not (settings.pod_name and settings.pod_uid):
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": settings.pod_name, "uid": settings.pod_uid}


def main() -> None:
    """Reads the settings, runs, and turns an error into one message and an exit code."""
    try:
        settings = Settings.read(os.environ)
        configure(settings.log_level, settings.log_format)
        asyncio.run(operate(settings))
    except AdtsError as error:
        print(f"adts-operator: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:
        logger.exception("the operator has ended")
        sys.exit(ExitCode.CRASH)


if __name__ == "__main__":
    main()
