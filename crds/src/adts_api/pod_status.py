"""What a launcher answers on `/status`: read by the operator, by `adts run` and by people with curl."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from adts_api.contract import CONTRACT_VERSION
from adts_api.training import ApiModel
from adts_api.v1alpha1 import CheckpointStatus, CommunicationStatus, Progress, Restart

PodState = Literal["starting", "running", "restarting", "stopping", "succeeded", "failed"]


class PodStatus(ApiModel):
    """State of one pod; the lead pod's also speaks for the job. Unknown fields are ignored: newer pods say more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    contract: int = CONTRACT_VERSION
    """Contract version of the launcher."""
    job_uid: str = ""
    """UID of the job; an answer with another UID comes from another job's pod."""
    attempt: int = 0
    """Attempt of the pod."""
    round: int = 0
    """Round of the processes; grows with every restart in place."""
    state: PodState = "starting"
    """What the pod does. `running` means its processes train."""
    message: str = ""
    """Why, for people."""
    exit_code: int | None = None
    """Exit code, once it is known."""
    progress: Progress = Field(default_factory=Progress)
    """Training progress, from the rank heartbeats."""
    checkpoint: CheckpointStatus = Field(default_factory=CheckpointStatus)
    """Newest committed checkpoint."""
    communication: CommunicationStatus = Field(default_factory=CommunicationStatus)
    """Gradient traffic."""
    restarts: list[Restart] = Field(default_factory=list)
    """Restarts in place of this attempt, oldest first, the last ten."""
