"""The contract between operator and pod: every name both sides use, with its meaning and who writes it.

Operator and trainer may be one `CONTRACT_VERSION` apart.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

CONTRACT_VERSION = 1


class Env:
    """Environment variables of the container `trainer`. The operator sets all of them unless said otherwise; those
    marked "launcher" are absent with `spec.command`."""

    MASTER_ADDR = "MASTER_ADDR"  # host of rank 0: `<job>-0-<attempt>.<job>`
    MASTER_PORT = "MASTER_PORT"  # port of rank 0's TCPStore
    WORLD_SIZE = "WORLD_SIZE"  # processes of the whole job
    NNODES = "NNODES"  # pods of the job
    NODE_RANK = "NODE_RANK"  # index of this pod
    LOCAL_WORLD_SIZE = "LOCAL_WORLD_SIZE"  # processes of this pod
    RANK = "RANK"  # by the operator where a pod holds one process, else by the launcher per process
    LOCAL_RANK = "LOCAL_RANK"  # likewise
    # What a plain `torchrun train.py` reads, so that it needs no flag.
    PET_NNODES = "PET_NNODES"  # as NNODES, for torchrun
    PET_NPROC_PER_NODE = "PET_NPROC_PER_NODE"  # as LOCAL_WORLD_SIZE, for torchrun
    PET_NODE_RANK = "PET_NODE_RANK"  # as NODE_RANK, for torchrun
    PET_MASTER_ADDR = "PET_MASTER_ADDR"  # as MASTER_ADDR, for torchrun
    PET_MASTER_PORT = "PET_MASTER_PORT"  # as MASTER_PORT, for torchrun
    # Ours.
    CONTRACT = "ADTS_CONTRACT_VERSION"  # CONTRACT_VERSION of the writer
    JOB_NAME = "ADTS_JOB_NAME"  # name of the job
    JOB_NAMESPACE = "ADTS_JOB_NAMESPACE"  # namespace of the job
    JOB_UID = "ADTS_JOB_UID"  # the fence: launchers of another job are turned away
    ATTEMPT = "ADTS_ATTEMPT"  # the fence: launchers and checkpoints of older attempts are turned away
    POD_NAME = "ADTS_POD_NAME"  # for logs and status
    NODE_NAME = "ADTS_NODE_NAME"  # node of the pod, by the downward API
    CONFIG = "ADTS_CONFIG"  # launcher: path of the defaulted resource (YAML); unset means the built-in quick start
    TOKEN_FILE = "ADTS_TOKEN_FILE"  # launcher: file with the token that launchers show each other
    PORT = "ADTS_PORT"  # launcher: its HTTP port in this pod
    LEAD = "ADTS_LEAD"  # launcher: host:port of the lead pod's
    DEVICE = "ADTS_DEVICE"  # launcher: cpu or cuda, what training.device resolved to
    START_TIMEOUT = "ADTS_START_TIMEOUT_SECONDS"  # launcher: bound of the start proof
    GRACE = "ADTS_GRACE_SECONDS"  # seconds between SIGTERM and SIGKILL
    THREADS = "ADTS_THREADS"  # intra-op threads of one process; only by `adts run`, whose pods share the machine
    TERMINATION_FILE = "ADTS_TERMINATION_FILE"  # where the launcher leaves its last PodStatus; default TERMINATION_FILE


RESERVED_ENV = frozenset(v for k, v in vars(Env).items() if not k.startswith("_"))
"""Names a user's template must not set."""

TERMINATION_FILE = "/dev/termination-log"  # the kubelet copies it into the container's terminated message
TERMINATION_BYTES = 4096  # and no more than this

CONTAINER = "trainer"  # completion is read from this container, whatever sidecars do

MOUNT_CONFIG = "/etc/adts"  # the ConfigMap; the resource is CONFIG_FILE in it
CONFIG_FILE = "training.yaml"  # the defaulted resource
MOUNT_TOKEN = "/etc/adts-token"  # the Secret; the token is TOKEN_FILE in it
TOKEN_FILE = "token"  # what launchers show each other
MOUNT_DATA = "/data"  # claim of spec.data
MOUNT_CHECKPOINTS = "/checkpoints"  # claim of spec.checkpoint
MOUNT_SHM = "/dev/shm"  # memory-backed emptyDir: NCCL, heartbeats

MASTER_PORT = 29500  # rank 0's TCPStore
LAUNCHER_PORT = 29400  # HTTP of every pod's launcher: /status /metrics /healthz /stacks

MAX_NAME_LENGTH = 50  # `<job>-<index>-<attempt>` must stay a DNS label of 63

LABEL_JOB = "adts.dev/job"  # name of the job; on every child, by the operator
LABEL_JOB_UID = "adts.dev/job-uid"  # UID of the job; children are found by it
LABEL_ATTEMPT = "adts.dev/attempt"  # attempt a pod belongs to; older ones are never counted and always deleted
LABEL_INDEX = "adts.dev/index"  # node rank of a pod
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"  # always MANAGED_BY; on every child
MANAGED_BY = "adts"  # value of LABEL_MANAGED_BY


class ExitCode(IntEnum):
    """Exit codes of the launcher, of its ranks and of the `adts` command."""

    OK = 0  # done
    CRASH = 1  # an exception nobody expected
    BAD_CONFIG = 2  # the manifest, its environment or a command line is wrong
    USER_CODE = 3  # the user's own model or factory raised
    BAD_DATA = 4  # a data file is missing, empty or malformed
    BAD_CHECKPOINT = 5  # a checkpoint is damaged or of another model
    DIVERGED = 6  # loss or gradient not finite, or a spike, with onDivergence: stop
    FENCED = 7  # a higher attempt owns the checkpoint folder
    LOST_PEER = 64  # another process of the job disappeared
    START_TIMEOUT = 65  # the workers did not find each other in time
    PREEMPTED = 66  # told to stop; a checkpoint was saved
    DEVICE_MISSING = 67  # fewer devices than processes
    PORT_TAKEN = 68  # a port of the contract is in use
    STORAGE = 69  # disk full, read-only, or gone
    NO_PROGRESS = 70  # three rounds in place without a new step
    OUT_OF_MEMORY = 71  # host or device memory
    HUNG = 75  # killed by the hang watchdog
    COMMAND_NOT_EXECUTABLE = 126  # spec.command is not executable
    COMMAND_NOT_FOUND = 127  # spec.command is not in the image
    INTERRUPTED = 130  # Ctrl-C at `adts run`, after saving


PERMANENT_EXIT_CODES = frozenset(
    {
        ExitCode.BAD_CONFIG,
        ExitCode.USER_CODE,
        ExitCode.BAD_DATA,
        ExitCode.BAD_CHECKPOINT,
        ExitCode.DIVERGED,
        ExitCode.FENCED,
        ExitCode.COMMAND_NOT_EXECUTABLE,
        ExitCode.COMMAND_NOT_FOUND,
    }
)
"""Another attempt would end the same way. Every other non-zero code is retryable."""


COMMAND_EXIT_CODES = frozenset({ExitCode.COMMAND_NOT_EXECUTABLE, ExitCode.COMMAND_NOT_FOUND})
"""All that an exit code can tell where `spec.command` runs somebody else's script. Both are permanent."""


def exit_reason(code: int) -> str:
    """CamelCase word for an exit code as it appears in status: `LostPeer`, `Signal9`, `Exit42`."""
    if code < 0:
        return f"Signal{-code}"
    try:
        return "".join(word.capitalize() for word in ExitCode(code).name.split("_"))
    except ValueError:
        return f"Signal{code - 128}" if 128 < code < 160 else f"Exit{code}"


class ConditionType(StrEnum):
    """Condition types of the resource. Exactly one of Complete and Failed ends a job."""

    VALID = "Valid"  # the spec can be run
    RUNNING = "Running"  # every worker trains
    SUSPENDED = "Suspended"  # runPolicy.suspend took the pods away
    COMPLETE = "Complete"  # every worker ended with 0
    FAILED = "Failed"  # no further attempt will be made
    PROGRESS_UNREACHABLE = "ProgressUnreachable"  # the lead pod does not answer; never treated as a hang


class Reason(StrEnum):
    """Reasons of conditions and events: the closed list."""

    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    INVALID_POD = "InvalidPod"
    POD_REFUSED = "PodRefused"
    GANG_UNAVAILABLE = "GangUnavailable"
    QUEUE_UNAVAILABLE = "QueueUnavailable"
    NAME_CONFLICT = "NameConflict"
    QUOTA_EXCEEDED = "QuotaExceeded"
    ADMISSION_DENIED = "AdmissionDenied"
    OPERATOR_FORBIDDEN = "OperatorForbidden"
    QUEUED = "Queued"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_NOT_CREATED = "ContainerNotCreated"
    ATTEMPT_STARTED = "AttemptStarted"
    ALL_WORKERS_RUNNING = "AllWorkersRunning"
    WORKERS_STARTING = "WorkersStarting"
    WORKER_FAILED = "WorkerFailed"
    WORKER_LOST = "WorkerLost"
    PREEMPTED = "Preempted"
    ROUND_RESTARTED = "RoundRestarted"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    PERMANENT_FAILURE = "PermanentFailure"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    START_DEADLINE_EXCEEDED = "StartDeadlineExceeded"
    SUSPENDED = "SuspendedByUser"
    RESUMED = "ResumedByUser"
    TRAINING_FINISHED = "TrainingFinished"
    LEAD_SILENT = "LeadSilent"
    LEAD_ANSWERS = "LeadAnswers"
