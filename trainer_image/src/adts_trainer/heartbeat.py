"""Heartbeats: one small JSON file per rank on tmpfs, written by the rank, read by its launcher. No torch here."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Last sign of life of one rank."""

    round: int = 0
    phase: str = "starting"
    """starting, restoring, training, evaluating, saving, done or failed."""
    step: int = 0
    """Optimizer steps done."""
    steps: int = 0
    loss: float | None = None
    evaluation_loss: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    eta_seconds: float | None = None
    checkpoint_step: int = 0
    checkpoint_path: str = ""
    checkpoint_at: str = ""
    wire_bytes_per_step: int = 0
    compression_ratio: float | None = None
    exposed_seconds: float | None = None
    hidden_seconds: float | None = None
    error: str = ""
    """Message of the failure that ended the rank."""
    exit_code: int | None = None
    time: float = 0.0
    """Unix time of the write."""


class HeartbeatWriter:
    """Keeps the current heartbeat and writes it atomically, at most every `interval` seconds unless forced."""

    def __init__(self, path: Path, round_: int, interval: float = 0.1) -> None:
        self._path, self._interval, self._written = path, interval, 0.0
        self.current = Heartbeat(round=round_)

    def update(self, *, force: bool = False, **changes: Any) -> None:
        """Change fields; a new phase is always written at once."""
        now = time.time()
        force = force or changes.get("phase", self.current.phase) != self.current.phase
        self.current = replace(self.current, time=now, **changes)
        if force or now - self._written >= self._interval:
            self._written = now
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(asdict(self.current)))
            temporary.replace(self._path)


def read(path: Path) -> Heartbeat | None:
    """The heartbeat in a file, or None before the first one or where it is none. Unknown fields and values of another
    type are left out: whatever a rank wrote, its launcher lives on."""
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(raw, dict):
        return None
    hints = get_type_hints(Heartbeat)
    return Heartbeat(**{k: v for k, v in raw.items() if k in hints and _fits(v, hints[k])})


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is one of a field: counts are not negative, floats may be written as integers."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return 0 <= value < 1 << 63 and (isinstance(value, hint) or isinstance(0.0, hint))
    return isinstance(value, hint)
