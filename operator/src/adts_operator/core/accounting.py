"""What an observation adds to the status: counts, progress, checkpoint, rounds in place, device seconds."""

from __future__ import annotations

from adts_api.contract import ConditionType, Reason
from adts_api.pod_status import PodStatus
from adts_api.topology import layout
from adts_api.v1alpha1 import DistributedTraining, GpuSeconds, Progress, Restart, Status, WorkerCounts
from adts_operator.core.conditions import holds, with_condition
from adts_operator.core.observed import Gang, Observed, PodView, effective_attempt, sort_pods
from adts_operator.core.times import to_rfc3339, to_seconds

RESTARTS_KEPT = 10


def take_stock(job: DistributedTraining, observed: Observed, now: float) -> tuple[Status, Gang]:
    """The status brought up to date with what was seen, before any decision, and the gang in buckets."""
    status = job.status
    attempt = effective_attempt(status.attempt, observed.pods)
    lead = trusted_lead(job, attempt, observed.lead)
    gang = sort_pods(
        observed.pods, attempt, job.spec.workers.replicas, trains=_trains(job, lead, observed.lead_is_silent)
    )
    status = status.model_copy(update={"attempt": attempt, "observed_generation": job.metadata.generation})
    if attempt > job.status.attempt:
        # Pods of ours that the status knows nothing of: it was lost, they are adopted. Whether those that are missing
        # were ever made nobody knows, so they are not made again.
        adopted = {
            "not_before": to_rfc3339(now),
            "started_at": status.started_at or to_rfc3339(now),
            "workers": WorkerCounts(created=job.spec.workers.replicas),
        }
        status = status.model_copy(update=adopted)
    if not job.spec.command and observed.refusal is None:  # a refused spec may have none
        status = status.model_copy(update={"layout": layout(job.spec)})
    status = _count_workers(status, gang)
    status = _count_devices(job, status, gang, now)
    if lead is not None:
        status = _hear_lead(status, lead)
    return _note_silence(status, gang, observed.lead_is_silent, now), gang


def trusted_lead(job: DistributedTraining, attempt: int, lead: PodStatus | None) -> PodStatus | None:
    """The lead's answer if it comes from this job and this attempt: addresses are recycled."""
    if lead is None or lead.job_uid != job.metadata.uid or lead.attempt != attempt:
        return None
    return lead


def add_restart(status: Status, restart: Restart) -> Status:
    """The status with one more restart, the oldest dropped."""
    return status.model_copy(update={"restarts": [*status.restarts, restart][-RESTARTS_KEPT:]})


def forget_unsaved(status: Status) -> Status:
    """The status after a restart: work since the newest checkpoint is lost."""
    return status.model_copy(update={"gpu_seconds": status.gpu_seconds.model_copy(update={"unsaved": 0.0})})


def keep_unsaved(status: Status) -> Status:
    """The status after a checkpoint or the end: work until now is kept."""
    spent = status.gpu_seconds
    kept = {"productive": spent.productive + spent.unsaved, "unsaved": 0.0}
    return status.model_copy(update={"gpu_seconds": spent.model_copy(update=kept)})


def _trains(job: DistributedTraining, lead: PodStatus | None, lead_is_silent: bool) -> bool:
    """Whether a pod whose trainer runs counts as training."""
    if job.spec.command or lead_is_silent:  # nobody tells; silence is never a hang
        return True
    if lead is None:  # not asked yet, after a restart of the operator
        return job.status.phase == "Running"
    return lead.state in ("running", "stopping", "succeeded")


def _count_workers(status: Status, gang: Gang) -> Status:
    created = status.workers.created if gang.missing else gang.replicas
    workers = WorkerCounts(
        desired=gang.replicas,
        created=created,
        ready=len(gang.starting) + len(gang.running),
        succeeded=len(gang.succeeded),
        failed=len(gang.failed),
        disrupted=max(status.workers.disrupted, sum(pod.disrupted for pod in gang.current)),
        at=status.workers.at,
    )
    return status.model_copy(update={"workers": workers})


def _hear_lead(status: Status, lead: PodStatus) -> Status:
    """Progress, checkpoint and traffic as the lead tells them; its rounds that are not in the status yet."""
    known = {(restart.time, restart.scope, restart.pod) for restart in status.restarts}
    news = [restart for restart in lead.restarts if (restart.time, restart.scope, restart.pod) not in known]
    for restart in news:
        status = add_restart(status, restart)
    if lead.checkpoint.step > status.checkpoint.step:
        status = keep_unsaved(status)
    if news:
        status = forget_unsaved(status)
    heard = {
        "rounds": status.rounds + len(news),
        "communication": lead.communication,
        "progress": _readable(lead.progress) if lead.progress.at or lead.progress.step else status.progress,
        "checkpoint": lead.checkpoint if lead.checkpoint.step else status.checkpoint,
    }
    return status.model_copy(update=heard)


def _readable(progress: Progress) -> Progress:
    """With as many digits as tell people something: `kubectl get` shows numbers as they are."""
    update: dict[str, float] = {}
    for name in ("loss", "evaluation_loss", "tokens_per_second", "mfu", "eta_seconds"):
        value = getattr(progress, name)
        if value is not None:
            update[name] = float(f"{value:.6g}")
    return progress.model_copy(update=update)


def _count_devices(job: DistributedTraining, status: Status, gang: Gang, now: float) -> Status:
    """Device seconds of our pods since the last count; written along with the next change of the status."""
    gpus = job.spec.workers.gpus_per_worker
    if not gpus:
        return status
    spent = status.gpu_seconds
    since = to_seconds(spent.at, 0.0)
    passed = gpus * sum(_seconds_alive(pod, since, now) for pod in gang.current + gang.stale)
    counted = GpuSeconds(
        total=round(spent.total + passed, 3),
        productive=spent.productive,
        unsaved=round(spent.unsaved + (passed if job.status.phase == "Running" else 0.0), 3),
        at=to_rfc3339(now),
    )
    return status.model_copy(update={"gpu_seconds": counted})


def _seconds_alive(pod: PodView, since: float, now: float) -> float:
    if pod.started_at is None:
        return 0.0
    until = now if pod.finished_at is None else min(pod.finished_at, now)
    return max(0.0, until - max(pod.started_at, since))


def _note_silence(status: Status, gang: Gang, silent: bool, now: float) -> Status:
    is_silent = silent and bool(gang.running)
    if not is_silent and not holds(status, ConditionType.PROGRESS_UNREACHABLE):
        return status
    message = "the lead pod does not answer; the job goes on" if is_silent else "the lead pod answers"
    reason = Reason.LEAD_SILENT if is_silent else Reason.LEAD_ANSWERS
    return with_condition(status, ConditionType.PROGRESS_UNREACHABLE, is_silent, reason, message, now=now)
