"""Pods that failed and are gone since. A deleted pod vanishes a second after its trainer ended, but its peers may save
for minutes, and only then the attempt is over: its cause must still be known.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

from adts_operator.cluster.pod_views import PodRecord


class FallenPods:
    """What is remembered of them, by the UID of their job."""

    def __init__(self) -> None:
        self._of_job: dict[str, dict[str, PodRecord]] = {}

    def join(self, job_uid: str, attempt: int, pods: Sequence[PodRecord]) -> tuple[PodRecord, ...]:
        """All pods that are there, and those of this attempt that were seen to fail before they went."""
        known = {name: it for name, it in self._of_job.pop(job_uid, {}).items() if it.view.attempt >= attempt}
        there = {it.view.name for it in pods}
        gone = [_as_gone(it) for name, it in known.items() if name not in there]
        known |= {it.view.name: it for it in pods if it.view.phase == "Failed"}
        if known:
            self._of_job[job_uid] = known
        return (*pods, *gone)

    def forget(self, living: Set[str]) -> None:
        """Drops what is remembered of jobs that are gone."""
        self._of_job = {uid: pods for uid, pods in self._of_job.items() if uid in living}


def _as_gone(pod: PodRecord) -> PodRecord:
    """Nobody needs to delete it any more."""
    return replace(pod, view=replace(pod.view, gone_by=0.0))
