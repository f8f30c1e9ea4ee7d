"""The operator's Prometheus metrics. Every label has a closed list of values, but for the jobs behind their switch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from adts_api.contract import ExitCode, Reason, exit_reason
from adts_api.v1alpha1 import Phase, Progress
from adts_operator.core.failures import DISRUPTED, LOST, NODE_NOT_READY

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIGNALS: Final = range(1, 32)
OTHER: Final = "Other"
RESTART_REASONS: Final = frozenset(
    {exit_reason(code) for code in ExitCode}
    | {exit_reason(-signal) for signal in SIGNALS}
    | {reason.value for reason in Reason}
    | {LOST, DISRUPTED, NODE_NOT_READY}
    | {"Evicted", "UnexpectedAdmissionError", "ContainerStatusUnknown"}  # the kubelet's own
)
"""Values of the label `reason`; everything else, such as a script's own exit code, is counted as Other."""


class Metrics:
    """All metrics of one operator, in a registry of their own."""

    def __init__(self, *, job_metrics: bool = False) -> None:
        """`job_metrics`: three series for every running job as well."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._queue = Gauge("adts_queue_depth", "Jobs that wait to be reconciled.", registry=self.registry)
        self._leader = Gauge("adts_leader", "1 where this replica leads.", registry=self.registry)
        self._watches = Gauge(
            "adts_watch_age_seconds", "Since a watch last said anything.", ["resource"], registry=self.registry
        )
        self._seconds = Histogram(
            "adts_reconcile_seconds", "Duration of one reconcile.", buckets=SECONDS, registry=self.registry
        )
        self._errors = Counter(
            "adts_reconcile_errors", "Reconciles that failed and are tried again.", ["kind"], registry=self.registry
        )
        self._requests = Counter(
            "adts_api_requests",
            "Requests to the API server; code 0 where it did not answer.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self._jobs = Gauge("adts_jobs", "Jobs by phase.", ["phase"], registry=self.registry)
        self._restarts = Counter(
            "adts_restarts",
            "Restarts of a gang (attempt) or of the processes inside it (round).",
            ["scope", "reason"],
            registry=self.registry,
        )
        self._progress: dict[str, Gauge] = {}
        if job_metrics:
            labels = ["namespace", "name"]
            self._progress = {
                "step": Gauge("adts_job_step", "Optimizer steps done.", labels, registry=self.registry),
                "loss": Gauge("adts_job_loss", "Training loss of the last step.", labels, registry=self.registry),
                "tokens_per_second": Gauge(
                    "adts_job_tokens_per_second", "Tokens per second of the job.", labels, registry=self.registry
                ),
            }

    def watch_queue(self, depth: Callable[[], float]) -> None:
        """Asks for the depth of the queue whenever metrics are read."""
        self._queue.set_function(depth)

    def watch_leader(self, is_leader: Callable[[], bool]) -> None:
        """Asks whether this replica leads whenever metrics are read."""
        self._leader.set_function(is_leader)

    def watch_age(self, resource: str, age: Callable[[], float]) -> None:
        """Asks for the seconds since a watch last said anything whenever metrics are read."""
        self._watches.labels(resource).set_function(age)

    def on_answer(self, verb: str, resource: str, code: int) -> None:
        """Counts a request to the API server."""
        self._requests.labels(verb, resource, code).inc()

    def reconciled(self, seconds: float, error: str | None = None) -> None:
        """Counts one reconcile, and the kind of error it ended with."""
        self._seconds.observe(seconds)
        if error is not None:
            self._errors.labels(error).inc()

    def restarted(self, scope: str, reason: str) -> None:
        """Counts one restart."""
        self._restarts.labels(scope, reason if reason in RESTART_REASONS else OTHER).inc()

    def set_jobs(self, counts: Mapping[str, int]) -> None:
        """How many jobs are in which phase; phases that are not named have none."""
        for phase in get_args(Phase):
            self._jobs.labels(phase).set(counts.get(phase, 0))

    def show_job(self, namespace: str, name: str, progress: Progress) -> None:
        """The progress of one running job, where the switch is on."""
        for field, gauge in self._progress.items():
            value = getattr(progress, field)
            if value is None:
                gauge.remove(namespace, name)
            else:
                gauge.labels(namespace, name).set(value)

    def forget_job(self, namespace: str, name: str) -> None:
        """Removes the series of a job that ended or is gone."""
        for gauge in self._progress.values():
            gauge.remove(namespace, name)
