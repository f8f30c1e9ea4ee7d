"""What every phase, reason and cause of a failure means and what to do about it, in one place: `adts describe` shows it
and the page of the docs is made from it.

`JOB` and `FILE` in an action stand for the job's name and for its manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from adts_api.contract import ExitCode, Reason, exit_reason
from adts_api.v1alpha1 import Phase
from adts_operator.core.failures import DISRUPTED, LOST, NODE_NOT_READY, START_DEADLINE


@dataclass(frozen=True)
class Advice:
    """A word of the status, for people."""

    meaning: str
    action: str = ""
    """What to do; empty where nothing needs doing."""


PHASES: Final[Mapping[Phase, str]] = {
    "Pending": "Its pods are not placed on nodes yet.",
    "Queued": "Kueue holds its pods back until the queue has room for all of them.",
    "Starting": "Its pods have nodes; images are pulled, containers start and the workers look for each other.",
    "Running": "Every worker trains.",
    "Restarting": "Something failed; the workers start again from the newest checkpoint.",
    "Suspended": "runPolicy.suspend took the pods away after a checkpoint; the job is kept.",
    "Succeeded": "Every worker finished. It does not start again.",
    "Failed": "It came to an end without success. It does not start again.",
}

CORRECT_AND_APPLY = "correct the manifest and apply it again; `adts validate FILE` names every mistake"

RESUME: Final = """--type merge -p '{"spec":{"runPolicy":{"suspend":false}}}'"""
"""What `kubectl patch` needs to resume a job."""

REASONS: Final[Mapping[str, Advice]] = {
    Reason.ACCEPTED: Advice("The spec can be run."),
    Reason.INVALID_SPEC: Advice("A field breaks a rule, so nothing was made.", CORRECT_AND_APPLY),
    Reason.INVALID_POD: Advice(
        "The API server cannot read the pod that spec.workers.template makes, so nothing was made.",
        "correct the field of the template that the message names and apply again; `adts render FILE` shows the pod",
    ),
    Reason.POD_REFUSED: Advice(
        "A rule of the namespace forbids this pod: its Pod Security level, a LimitRange, or a quota that wants limits.",
        "change in spec.workers.template what the message names, or use a namespace that allows it",
    ),
    Reason.GANG_UNAVAILABLE: Advice(
        "The cluster lacks the gang scheduler that spec.scheduling.gang asks for, so nothing was made.",
        "use one that the cluster has, or have the one you ask for installed and switched on in the chart",
    ),
    Reason.QUEUE_UNAVAILABLE: Advice(
        "The cluster lacks Kueue, which spec.scheduling.queue asks for, so nothing was made.",
        "have Kueue installed with its plain pod integration, or leave spec.scheduling.queue away",
    ),
    Reason.NAME_CONFLICT: Advice(
        "An object of somebody else has a name that the job needs. It is left alone.",
        "create the job under another name, or delete that object",
    ),
    Reason.QUOTA_EXCEEDED: Advice(
        "The namespace's quota has no room for the whole gang; nothing is held meanwhile, and it is tried again.",
        "free some of the quota, have it raised, or ask for smaller workers; `kubectl describe quota` shows it",
    ),
    Reason.ADMISSION_DENIED: Advice(
        "An admission webhook or policy of the cluster refuses an object of the job; it is tried again.",
        "change what the message names, or ask the owner of that policy",
    ),
    Reason.OPERATOR_FORBIDDEN: Advice(
        "The operator lacks a permission that this job needs; it is tried again.",
        "ask whoever installed the operator to grant what the message names; the chart has a switch for each extra",
    ),
    Reason.QUEUED: Advice(
        "Kueue has not admitted the pods yet.",
        "wait, or see with `kubectl get workloads` what the queue is short of",
    ),
    Reason.UNSCHEDULABLE: Advice(
        "The scheduler finds no node with room for a pod.",
        "compare what the message misses with `kubectl describe nodes`; ask for fewer or smaller workers, or add nodes",
    ),
    Reason.IMAGE_PULL_FAILED: Advice(
        "A node cannot pull the image.",
        "check the name and tag of spec.image, and that the namespace has the pull secret of its registry",
    ),
    Reason.CONTAINER_NOT_CREATED: Advice(
        "A node cannot make the container: a ConfigMap, Secret or volume it names is missing, or its command.",
        "create what the message names, or correct spec.workers.template",
    ),
    Reason.ATTEMPT_STARTED: Advice("A new set of pods is made for the whole gang."),
    Reason.ALL_WORKERS_RUNNING: Advice("Every worker trains."),
    Reason.WORKERS_STARTING: Advice(
        "Not every worker trains yet.", "wait; if it lasts, the pods below say what they wait for"
    ),
    Reason.WORKER_FAILED: Advice(
        "A worker ended with an error; the gang starts again from the newest checkpoint.",
        "read the end of its output in the restarts; `adts logs JOB --previous` has more while its pod is there",
    ),
    Reason.WORKER_LOST: Advice(
        "A pod vanished or its node went silent; the gang starts again from the newest checkpoint.",
        "if it happens again, look at that node: `kubectl describe node`",
    ),
    Reason.PREEMPTED: Advice(
        "The cluster took a pod away: preemption, drain or eviction. It is free of charge once a checkpoint is newer.",
        "if it happens often, give the job a higher scheduling.priorityClassName or save more often",
    ),
    Reason.ROUND_RESTARTED: Advice(
        "A process died; all were started again inside their pods, from the newest checkpoint.",
        "nothing, unless it repeats; the restarts say which process and why",
    ),
    Reason.BACKOFF_LIMIT_EXCEEDED: Advice(
        "More attempts failed than runPolicy.backoffLimit allows.",
        "find the cause in the restarts, then create the job again: it goes on from its newest checkpoint",
    ),
    Reason.PERMANENT_FAILURE: Advice(
        "A worker ended with a code after which another attempt would end the same way.",
        "remove the cause that the message names, then create the job again: it goes on from its newest checkpoint",
    ),
    Reason.DEADLINE_EXCEEDED: Advice(
        "The job ran longer than runPolicy.activeDeadlineSeconds.",
        "create it again with a later deadline: it goes on from its newest checkpoint",
    ),
    Reason.START_DEADLINE_EXCEEDED: Advice(
        "An attempt did not get all its workers running within runPolicy.startDeadlineSeconds.",
        "see what the pods waited for; ask for less, or set a later deadline",
    ),
    Reason.SUSPENDED: Advice(
        "runPolicy.suspend is true.",
        f"resume it: `kubectl patch dtrain JOB {RESUME}`",
    ),
    Reason.RESUMED: Advice("runPolicy.suspend was taken back; a new attempt begins."),
    Reason.TRAINING_FINISHED: Advice("Every worker ended well."),
    Reason.LEAD_SILENT: Advice(
        "The operator gets no answer from the pod of rank 0. The training may well go on, but its progress is unknown.",
        "see that a NetworkPolicy lets the operator reach the pods, or switch on the chart's progress.viaApiProxy",
    ),
    Reason.LEAD_ANSWERS: Advice("The operator reaches the pod of rank 0 again."),
}

_EXIT_CODES: Final[Mapping[ExitCode, Advice]] = {
    ExitCode.CRASH: Advice("The program raised an error that it does not know.", "read the end of its output"),
    ExitCode.BAD_CONFIG: Advice("The manifest or the container's environment is wrong.", CORRECT_AND_APPLY),
    ExitCode.USER_CODE: Advice("Your own model or factory raised an error.", "correct it and build a new image"),
    ExitCode.BAD_DATA: Advice("A data file is missing, empty or malformed.", "see spec.data and what its volume holds"),
    ExitCode.BAD_CHECKPOINT: Advice(
        "A checkpoint is damaged or belongs to another model.",
        "point spec.checkpoint.path at an empty folder, or delete the newest checkpoint to go on from the one before",
    ),
    ExitCode.DIVERGED: Advice(
        "The loss or a gradient was no longer finite, or rose too fast.",
        "lower optimizer.learningRate, lengthen its warm-up, or use bf16 in the place of fp16",
    ),
    ExitCode.FENCED: Advice("A newer attempt owns the checkpoint folder.", "give every job a folder of its own"),
    ExitCode.LOST_PEER: Advice(
        "Another process of the job disappeared, and with it the connection.", "look at the pod that failed first"
    ),
    ExitCode.START_TIMEOUT: Advice(
        "The workers did not find each other in time.",
        "see that every pod runs and that no NetworkPolicy stands between them",
    ),
    ExitCode.PREEMPTED: Advice("It was told to stop and saved a checkpoint."),
    ExitCode.DEVICE_MISSING: Advice(
        "The pod saw fewer GPUs than it has processes.",
        "look at the node's driver and device plugin; to train on CPUs set spec.training.device: cpu",
    ),
    ExitCode.PORT_TAKEN: Advice(
        "A port that the workers need is in use.", "with hostNetwork another job is on the node; leave hostNetwork away"
    ),
    ExitCode.STORAGE: Advice(
        "A disk is full, read-only or gone.", "make room in the claim of spec.checkpoint, or keep fewer checkpoints"
    ),
    ExitCode.NO_PROGRESS: Advice(
        "The processes were started again three times without finishing a step.", "read the end of their output"
    ),
    ExitCode.OUT_OF_MEMORY: Advice(
        "Host or GPU memory ran out.",
        "raise the memory limit, or use more parallelism.microbatches, a higher zero.stage or a smaller model",
    ),
    ExitCode.HUNG: Advice(
        "No step was finished within runPolicy.hangTimeoutSeconds.", "the output holds the stack of the rank that hung"
    ),
    ExitCode.COMMAND_NOT_EXECUTABLE: Advice(
        "spec.command may not be executed.", "set the file's executable bit in the image"
    ),
    ExitCode.COMMAND_NOT_FOUND: Advice("spec.command is not in the image.", "correct its path, or use another image"),
}

FAILURES: Final[Mapping[str, Advice]] = {
    **{exit_reason(code): advice for code, advice in _EXIT_CODES.items()},
    LOST: REASONS[Reason.WORKER_LOST],
    DISRUPTED: REASONS[Reason.PREEMPTED],
    NODE_NOT_READY: Advice(
        "The node of a pod does not answer, and the pod is being deleted; the gang starts again elsewhere.",
        "look at that node: `kubectl describe node`; until it is back its pods stay Terminating, which is harmless",
    ),
    START_DEADLINE: REASONS[Reason.START_DEADLINE_EXCEEDED],
    "Signal9": Advice("Something killed the process: often the kernel, when memory ran out.", "raise the memory limit"),
    "Evicted": Advice(
        "The node ran out of memory or disk and put the pod out.", "set memory and ephemeral-storage requests"
    ),
}
"""By the words of `status.restarts[].reason`."""
