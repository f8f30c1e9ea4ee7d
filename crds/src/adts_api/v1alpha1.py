"""The `DistributedTraining` resource, version v1alpha1: metadata, spec and status as typed models.

One version, additive changes only. Descriptions in the CRD are the docstrings here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from adts_api.training import (
    ApiModel,
    Checkpoint,
    Communication,
    Compression,
    Data,
    Model,
    Optimizer,
    Parallelism,
    Precision,
    Training,
    Zero,
)

GROUP = "adts.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DistributedTraining"
PLURAL = "distributedtrainings"
SHORT_NAMES = ("dtrain", "dt")

Phase = Literal["Pending", "Queued", "Starting", "Running", "Restarting", "Suspended", "Succeeded", "Failed"]


class Workers(ApiModel):
    """The gang: `replicas` equal pods, one process per device in each."""

    replicas: int = Field(1, ge=1, le=100_000)
    """Pods of the job."""
    gpus_per_worker: int = Field(0, ge=0, le=1024)
    """GPUs, and so processes, of one pod; 0 trains on the CPU."""
    processes_per_worker: int = Field(0, ge=0, le=1024)
    """Processes of one pod for CPU runs; 0 means one per GPU, or one."""
    gpu_memory: str = Field("", pattern=r"^([0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?)?$")
    """Memory of one GPU as a quantity such as 80Gi, for planning; empty means unknown."""
    min_replicas: int = Field(0, ge=0)
    """Fewest pods an elastic job may shrink to; 0 means it never shrinks."""
    template: dict[str, Any] = Field(default_factory=dict)
    """PodTemplateSpec merged over the generated pod; the container named `trainer` is ours."""


class RunPolicy(ApiModel):
    """Life and death of the job."""

    suspend: bool = False
    """True removes the pods after a checkpoint and keeps the job."""
    managed_by: str = ""
    """Another controller that reconciles this job, such as `kueue.x-k8s.io/multikueue`; ours leaves it alone."""
    backoff_limit: int = Field(6, ge=0)
    """New attempts of the whole gang before the job fails; restarts of processes inside a pod do not count."""
    active_deadline_seconds: int | None = Field(None, ge=1)
    """Seconds from the start, or from the last resumption, after which the job fails; absent means never."""
    start_deadline_seconds: int | None = Field(None, ge=1)
    """Seconds an attempt may take until all its workers run; absent means 600, not counting the time in which a queue,
    a quota or a gang scheduler keeps all of it waiting."""
    grace_period_seconds: int = Field(120, ge=1)
    """Seconds to agree on a step and save it when told to stop."""
    ttl_seconds_after_finished: int | None = Field(None, ge=0)
    """Seconds after the end when the job is deleted; absent means never."""
    clean_pod_policy: Literal["Running", "All", "None"] = "Running"
    """Pods of the last attempt deleted at the end: those still running, all, or none."""
    hang_timeout_seconds: int = Field(0, ge=0)
    """Seconds without a step after which the job counts as hung; 0 means never."""
    permanent_exit_codes: list[Annotated[int, Field(ge=1, le=255)]] = Field(default_factory=list)
    """Exit codes, beside the contract's, that end the job without another attempt."""


class Scheduling(ApiModel):
    """Where and when the pods may run."""

    gang: Literal["none", "native", "volcano", "coscheduling"] = "none"
    """All-or-nothing scheduling, by the scheduler that provides it."""
    queue: str = ""
    """Kueue LocalQueue that admits all pods or none; with gang `volcano` a queue of Volcano's."""
    priority_class_name: str = ""
    """PriorityClass of the pods."""
    topology_key: str = ""
    """Node label, such as a zone or a rack, whose value the nodes of all pods must share."""


class Spec(ApiModel):
    """What to train and on what."""

    image: str = ""
    """Container image; empty takes the operator's default trainer image."""
    command: list[str] = Field(default_factory=list)
    """Command of your own image instead of `model`: any script for torchrun or with RANK and WORLD_SIZE, see
    docs/command.md."""
    workers: Workers = Field(default_factory=Workers)
    """Pods and devices."""
    parallelism: Parallelism = Field(default_factory=Parallelism)
    """How the model is cut over the processes."""
    zero: Zero = Field(default_factory=Zero)
    """Sharding of training state over the data ranks."""
    precision: Precision = Field(default_factory=Precision)
    """Number formats."""
    compression: Compression = Field(default_factory=Compression)
    """Gradient compression."""
    communication: Communication = Field(default_factory=Communication)
    """Gradient communication."""
    model: Model = Field(default_factory=Model)
    """The network."""
    data: Data = Field(default_factory=Data)
    """The samples."""
    optimizer: Optimizer = Field(default_factory=Optimizer)
    """The optimizer and its schedule."""
    training: Training = Field(default_factory=Training)
    """The loop."""
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    """Saving and resuming."""
    run_policy: RunPolicy = Field(default_factory=RunPolicy)
    """Life and death of the job."""
    scheduling: Scheduling = Field(default_factory=Scheduling)
    """Where and when the pods may run."""


class Observed(ApiModel):
    """Base of what others write: unknown fields are ignored, a newer writer may say more; a loss may be NaN."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=True)


class Condition(Observed):
    """A metav1.Condition."""

    type: str
    """One of `contract.ConditionType`."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    reason: str
    """One word for programs, from the documented list."""
    message: str = ""
    """A sentence for people."""
    last_transition_time: str = ""
    """When status last changed, RFC 3339."""
    observed_generation: int = 0
    """Generation of the spec this was judged on."""


class Restart(Observed):
    """Why one attempt, or the processes inside a pod, had to start again."""

    time: str
    """When, RFC 3339."""
    scope: Literal["attempt", "round"]
    """`attempt` replaced the pods of the gang, `round` only the processes inside them."""
    pod: str = ""
    """First pod that failed."""
    node: str = ""
    """Its node."""
    exit_code: int | None = None
    """Its exit code; negative is a signal."""
    reason: str = ""
    """One word: the name of the exit code, or what happened to the pod."""
    message: str = ""
    """What failed, with the last kilobyte of output."""


class WorkerCounts(Observed):
    """Pods of the current attempt."""

    desired: int = 0
    """Pods the spec asks for."""
    created: int = 0
    """Pods of the attempt, once all were seen: one missing after that is lost, one missing before is yet to be made."""
    ready: int = 0
    """Pods whose container runs."""
    succeeded: int = 0
    """Pods whose trainer ended with 0."""
    failed: int = 0
    """Pods whose trainer ended otherwise."""
    disrupted: int = 0
    """Pods that the cluster took away, or is about to."""
    at: str = ""
    """When these numbers, and why the workers do not run, were last brought up to date, RFC 3339."""


class Progress(Observed):
    """Where the training stands, as the lead pod says."""

    step: int = 0
    """Optimizer steps done."""
    steps: int = 0
    """Optimizer steps of the whole job."""
    loss: float | None = None
    """Training loss of the last logged step, nats per token."""
    evaluation_loss: float | None = None
    """Newest held-out loss, nats per token."""
    tokens_per_second: float | None = None
    """Tokens (samples for an mlp) per second of the whole job."""
    mfu: float | None = None
    """Model FLOPs utilisation, 0 to 1; absent where the device's peak is unknown."""
    eta_seconds: float | None = None
    """Expected seconds to the last step."""
    at: str = ""
    """When this was true, RFC 3339."""


class CheckpointStatus(Observed):
    """The newest committed checkpoint."""

    step: int = 0
    """Its optimizer step."""
    path: str = ""
    """Its folder."""
    at: str = ""
    """When it was committed, RFC 3339."""


class CommunicationStatus(Observed):
    """Traffic of the gradients."""

    wire_bytes_per_step: int = 0
    """Bytes one rank sends for data parallelism per optimizer step, by collectives that run as rings."""
    ratio: float = 1.0
    """Uncompressed bytes over sent bytes, between the replicas of a model."""
    exposed_seconds: float | None = None
    """Seconds per step that wait for the sums between replicas; unknown where torch or DeepSpeed makes them."""
    hidden_seconds: float | None = None
    """Seconds per step of them that pass beside the computation."""


class GpuSeconds(Observed):
    """What the job cost. Brought up to date with every other change of the status."""

    total: float = 0.0
    """Device seconds held."""
    productive: float = 0.0
    """Of these, spent on steps that a checkpoint or the result kept."""
    unsaved: float = 0.0
    """Seconds trained since the newest checkpoint: the next one makes them productive, a restart loses them."""
    at: str = ""
    """Time up to which this is counted, RFC 3339."""


class Backoff(Observed):
    """What sets the delay before the next attempt."""

    streak: int = 0
    """Attempts in a row that ended without a newer checkpoint."""
    checkpoint_step: int = 0
    """Step of the newest checkpoint when the last attempt ended."""
    out_of_memory_step: int | None = None
    """Step at which an attempt last ran out of memory."""


class Status(Observed):
    """What the operator observed; the schema of `.status`."""

    phase: Phase = "Pending"
    """Where the job is in its life."""
    conditions: list[Condition] = Field(default_factory=list)
    """Conditions of `contract.ConditionType`, one of each at most."""
    observed_generation: int = 0
    """Generation of the spec this status is about."""
    attempt: int = 0
    """Number of the current attempt; 0 before the first."""
    not_before: str = ""
    """Earliest time of the next attempt, RFC 3339."""
    image: str = ""
    """Image every attempt uses."""
    started_at: str = ""
    """When the first attempt began, or the first after a suspension, RFC 3339."""
    finished_at: str = ""
    """When the job ended, RFC 3339."""
    exit_code: int | None = None
    """Exit code that ended the job: 0 after success; absent where no process decided it."""
    failures: int = 0
    """Attempts that failed and count against the backoff limit."""
    backoff: Backoff = Field(default_factory=Backoff)
    """What sets the delay before the next attempt."""
    rounds: int = 0
    """Restarts of processes inside the pods, over all attempts."""
    restarts: list[Restart] = Field(default_factory=list)
    """The last ten restarts."""
    workers: WorkerCounts = Field(default_factory=WorkerCounts)
    """Pods of the current attempt."""
    layout: str = ""
    """The layout in words, such as `dp8 x tp2 x pp2, zero 1`."""
    progress: Progress = Field(default_factory=Progress)
    """Where the training stands."""
    checkpoint: CheckpointStatus = Field(default_factory=CheckpointStatus)
    """The newest committed checkpoint."""
    communication: CommunicationStatus = Field(default_factory=CommunicationStatus)
    """Traffic of the gradients."""
    gpu_seconds: GpuSeconds = Field(default_factory=GpuSeconds)
    """What the job cost."""


class Metadata(Observed):
    """The part of ObjectMeta the core reads; the rest passes through untouched."""

    name: str
    """A DNS label of at most 50 characters."""
    namespace: str = "default"
    """Namespace."""
    uid: str = ""
    """Set by the API server, or by the local store."""
    generation: int = 1
    """Counts changes of the spec."""
    resource_version: str = ""
    """Set by the API server with every write; a status is written only over the version it was made from."""
    creation_timestamp: str = ""
    """When the job was made, RFC 3339."""
    deletion_timestamp: str = ""
    """When the job's deletion began, RFC 3339; empty where nobody deletes it."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations."""


class DistributedTraining(ApiModel):
    """A training job over one or many workers."""

    api_version: Literal["adts.dev/v1alpha1"]
    """The API version."""
    kind: Literal["DistributedTraining"]
    """The kind."""
    metadata: Metadata
    """Name and the like."""
    spec: Spec
    """What to train and on what."""
    status: Status = Field(default_factory=Status)
    """What the operator observed."""
