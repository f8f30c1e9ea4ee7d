"""Numbers and times as short text for the cells of a table."""

from __future__ import annotations

from rich.text import Text

from adts_api.v1alpha1 import DistributedTraining, Phase
from adts_operator.core.times import to_seconds
from adts_operator.view import STYLES

NOTHING = "–"
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def span(seconds: float) -> str:
    """`45s`, `3m20s`, `45m`, `2h5m`, `20h`, `3d`: two units where the first is small."""
    whole = max(0, round(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 1:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if hours < 1:
        return f"{minutes}m"
    if hours < 10:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{days}d"


def since(time: str, now: float) -> str:
    """The span from an RFC 3339 time until now; a dash for an empty one."""
    return span(now - to_seconds(time, now)) if time else NOTHING


def count(number: float | None) -> str:
    """`850`, `12.3k`, `1.2M`; a dash for None."""
    if number is None:
        return NOTHING
    for size, unit in UNITS:
        if number >= 0.9995 * size:  # 999.9 is 1k, not 1e+03
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def loss(value: float | None) -> str:
    """Four decimals; a dash for None."""
    return NOTHING if value is None else f"{value:.4f}"


def phase_text(phase: Phase) -> Text:
    """The phase in its colour, as in the view of `adts run`."""
    return Text(phase, style=STYLES.get(phase, "cyan"))


def steps(job: DistributedTraining) -> str:
    """`1200/5000`; a dash where nothing tells."""
    progress = job.status.progress
    return f"{progress.step}/{progress.steps}" if progress.steps else NOTHING


def ready(job: DistributedTraining) -> str:
    """`3/4`."""
    workers = job.status.workers
    return f"{workers.ready}/{workers.desired or job.spec.workers.replicas}"
