"""What `adts logs` says beside the logs: where the job stands, and what its pods wait for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from adts_api.v1alpha1 import DistributedTraining
from adts_operator.commands.log_lines import has_log
from adts_operator.commands.pages import explaining, stranger
from adts_operator.core.observed import PodView
from adts_operator.core.waiting import STARTING_UP

MOST_NAMES = 3


def state_words(job: DistributedTraining) -> str:
    """`gpt2 is Restarting, attempt 2: WorkerFailed: gpt2-1-1 exited with code 1 (Crash)`."""
    status, why = job.status, explaining(job)
    if remark := stranger(job):
        return f"{job.metadata.name} is {status.phase}. {remark}"
    attempt = f", attempt {status.attempt}" if status.attempt else ""
    reason = f": {why.reason}: {_first_line(why.message)}" if why is not None else ""
    return f"{job.metadata.name} is {status.phase}{attempt}{reason}"


def waiting_words(pods: Iterable[PodView], *, only_telling: bool = False) -> Iterator[str]:
    """Why pods have no log yet, or never will; each reason once. `only_telling` leaves out what all pods go through."""
    names: dict[str, list[str]] = {}
    for pod in sorted(pods, key=lambda pod: (pod.attempt, pod.index)):
        if not has_log(pod) and not (only_telling and pod.reason in STARTING_UP):
            names.setdefault(_reason(pod), []).append(pod.name)
    for reason, of in names.items():
        yield f"{', '.join(of[:MOST_NAMES])}{' and others' if len(of) > MOST_NAMES else ''}: {reason}"


def _reason(pod: PodView) -> str:
    told = f"{pod.reason}: {_first_line(pod.message)}".strip(": ")
    if pod.phase == "Failed":
        return f"never started: {told}"
    if not pod.node:
        return f"waiting for a node: {told}".rstrip(": ")
    return f"waiting for its container on {pod.node}: {told}".rstrip(": ")


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
