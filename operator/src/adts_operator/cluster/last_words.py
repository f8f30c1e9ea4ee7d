"""What a pod leaves behind: the launcher's last status where it could write it, else the end of its output."""

from __future__ import annotations

import re

from pydantic import ValidationError

from adts_api.pod_status import PodStatus

TAIL_BYTES = 1024
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def parse_termination(text: str) -> PodStatus | None:
    """The launcher's last status in a termination message; None where it is something else."""
    try:
        return PodStatus.model_validate_json(text)
    except ValidationError:
        return None


def last_words(status: PodStatus | None, output: bytes) -> str:
    """Why a pod ended, for `restarts[].message`: its own message, else whole lines from the end of its output."""
    if status is not None and status.message:
        return status.message[-TAIL_BYTES:]
    text = ESCAPES.sub("", output[-TAIL_BYTES:].decode(errors="replace"))
    if len(output) > TAIL_BYTES:
        text = text.partition("\n")[2]
    return text.strip()
