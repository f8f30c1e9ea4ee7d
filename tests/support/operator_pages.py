"""A running job with every number in its status, and what rich makes of a page on a narrow terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, RenderableType

from adts_api.v1alpha1 import CheckpointStatus, DistributedTraining, GpuSeconds, Progress, WorkerCounts
from adts_operator.core.times import to_rfc3339
from support.operator_jobs import NOW, running


def ago(seconds: float) -> str:
    """RFC 3339, so many seconds before NOW."""
    return to_rfc3339(NOW - seconds)


def telling(*, namespace: str = "team-a", status: dict[str, Any] | None = None, **fields: Any) -> DistributedTraining:
    """A running job that has told everything; `status` changes some of it."""
    job = running(**{"name": "gpt2", "gpus": 8, **fields})
    told = {
        "progress": Progress(
            step=1200,
            steps=5000,
            loss=2.3456,
            evaluation_loss=2.75,
            tokens_per_second=1_234_567.8,
            mfu=0.412,
            eta_seconds=7500.0,
            at=ago(60),
        ),
        "checkpoint": CheckpointStatus(step=1000, path="/checkpoints/1000-1", at=ago(240)),
        "workers": WorkerCounts(desired=2, created=2, ready=2),
        "gpu_seconds": GpuSeconds(total=144_000.0, productive=100_000.0, unsaved=3_680.0, at=ago(60)),
        **(status or {}),
    }
    metadata = {"namespace": namespace, "creation_timestamp": ago(7200)}
    update = {
        "metadata": job.metadata.model_copy(update=metadata),
        "status": job.status.model_copy(update=told),
    }
    return job.model_copy(update=update)


def lines(*things: RenderableType, width: int = 80) -> list[str]:
    """What a terminal of this width shows, without colours and spaces at the ends."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, _environ={})
    for thing in things:
        console.print(thing)
    return [line.rstrip() for line in out.getvalue().splitlines()]
