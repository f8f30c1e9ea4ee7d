"""New lines in the log files of a run's pods, for the screen."""

from __future__ import annotations

from pathlib import Path


class LogTail:
    """Reads what was added to the logs of a folder since the last look; whole lines only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets = {path: path.stat().st_size for path in folder.glob("*.log")}  # older attempts: seen before

    def read(self) -> list[str]:
        """New lines, file by file; each names its pod where there are several pods."""
        lines = []
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                whole, newline, _ = file.read().rpartition(b"\n")
            self._offsets[path] = self._offsets.get(path, 0) + len(whole) + len(newline)
            lines += [(path.stem, line) for line in whole.decode(errors="replace").splitlines()]
        workers = {path.stem.rsplit("-", 1)[0] for path in self._offsets}
        return [f"{pod} {line}" if len(workers) > 1 else line for pod, line in lines]
