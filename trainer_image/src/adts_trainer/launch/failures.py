"""Why a process ended, in words: from its exit code, its last heartbeat, its last output and the kernel's counters."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace

from adts_api.contract import ExitCode
from adts_trainer.heartbeat import Heartbeat
from adts_trainer.launch.messages import Failure, shorten
from adts_trainer.launch.ranks import Ended


@dataclass(frozen=True)
class Place:
    """The pod a failure happened in."""

    node: int
    pod: str
    machine: str


def failure_of(
    ended: Ended, beat: Heartbeat | None, place: Place, *, was_memory_kill: bool, peak_bytes: int | None
) -> Failure:
    """The failure of a process that ended badly by itself."""
    code = ended.code
    if code == -signal.SIGKILL and was_memory_kill:
        peak = f"; the container's peak was {peak_bytes / 2**30:.2f} GiB" if peak_bytes else ""
        code, message = int(ExitCode.OUT_OF_MEMORY), f"the kernel killed it for memory{peak}"
    elif beat is not None and beat.error and beat.exit_code == code:
        message = beat.error
    else:
        message = f"it {_end(code)}" + (f"; its last output:\n{ended.tail}" if ended.tail else " without a word")
    return Failure(
        node=place.node,
        rank=ended.rank,
        exit_code=code,
        message=shorten(message),
        pod=place.pod,
        machine=place.machine,
    )


def too_early(ended: Ended, beat: Heartbeat | None) -> Ended:
    """An end with code 0 is one only if the rank has said so: a library that calls exit() ends the process as well."""
    if ended.code != ExitCode.OK or beat is None or beat.exit_code == ExitCode.OK:
        return ended
    said = "exited with code 0 before its last step: something in it called exit()"
    return replace(ended, code=ExitCode.CRASH, tail=f"{ended.tail}\n{said}".lstrip())


def _end(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
