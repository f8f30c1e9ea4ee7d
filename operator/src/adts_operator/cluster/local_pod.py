"""One pod as one process group: started, asked how it is, told to leave, reaped."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from adts_api.pod_status import PodStatus
from adts_operator.cluster import processes
from adts_operator.cluster.last_words import TAIL_BYTES, last_words, parse_termination
from adts_operator.cluster.processes import ProcessId
from adts_operator.core.observed import PodView

LOOPBACK = "127.0.0.1"
STATUS_TIMEOUT_SECONDS = 1.0
NOBODY = ProcessId(0, "")


@dataclass
class LocalPod:
    """A pod of the table. `exit_code` is None for as long as it lives."""

    name: str
    index: int
    attempt: int
    port: int
    """Of its launcher."""
    log: Path
    termination: Path
    """Where its launcher leaves its last status."""
    process: subprocess.Popen[bytes] | None = None
    id: ProcessId = NOBODY
    exit_code: int | None = None
    started_at: float = field(default_factory=time.time)
    finished_at: float | None = None
    gone_by: float | None = None
    status: PodStatus | None = None
    """What its launcher said last."""
    heard_at: float = field(default_factory=time.monotonic)

    @property
    def is_alive(self) -> bool:
        return self.exit_code is None

    @property
    def silent_seconds(self) -> float:
        """Since when its launcher, if it lives, has not answered."""
        return time.monotonic() - self.heard_at if self.is_alive else 0.0

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts the process; a command that cannot be run is a pod that failed, as on a cluster."""
        self.termination.unlink(missing_ok=True)
        try:
            self.process = processes.start(command, environment, self.log)
        except OSError as error:
            self.log.write_text(f"{command[0]}: {error.strerror}\n")
            self.exit_code, self.finished_at = int(processes.failure_code(error)), time.time()
        else:
            self.id = processes.identify(self.process.pid)

    def refresh(self) -> None:
        """Notes its end, or brings it about where its grace period is over."""
        if self.process is None or not self.is_alive:
            return
        code = self.process.poll()
        if code is None:
            if self.gone_by is not None and time.time() > self.gone_by:
                processes.kill_group(self.id)
            return
        processes.kill_group(self.id)  # the end of a container is the end of all its processes
        self.exit_code, self.finished_at = processes.container_code(code), time.time()
        self.status = self._termination_status() or self.status

    async def ask(self) -> None:
        """Takes the launcher's answer on /status, if it gives one."""
        try:
            text = await asyncio.to_thread(_get, self.port)
            self.status = PodStatus.model_validate_json(text)
        except (OSError, http.client.HTTPException, ValidationError):
            return
        self.heard_at = time.monotonic()

    def delete(self, grace_seconds: float) -> None:
        """Asks the pod to save and leave within the grace period."""
        self.gone_by = time.time() + grace_seconds
        processes.terminate(self.id)

    def kill(self) -> None:
        """Ends the pod now."""
        if self.process is not None and self.is_alive:
            processes.kill_group(self.id)
            self.process.wait()
            self.refresh()

    def view(self) -> PodView:
        """The pod as the core sees it."""
        failed = bool(self.exit_code)
        return PodView(
            name=self.name,
            index=self.index,
            attempt=self.attempt,
            phase="Running" if self.is_alive else "Failed" if failed else "Succeeded",
            exit_code=self.exit_code,
            message=last_words(self._termination_status(), _tail(self.log)) if failed else "",
            node=socket.gethostname(),
            gone_by=self.gone_by,
            started_at=self.started_at,
            finished_at=self.finished_at,
        )

    def _termination_status(self) -> PodStatus | None:
        try:
            return parse_termination(self.termination.read_text())
        except OSError:
            return None


def _get(port: int) -> bytes:
    """The body of the launcher's /status. Not urllib, which would ask a proxy."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=STATUS_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/status")
        return connection.getresponse().read()
    finally:
        connection.close()


def _tail(log: Path) -> bytes:
    """The end of a file, a little more than what is kept of it."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 4 * TAIL_BYTES))
            return file.read()
    except OSError:
        return b""
