"""The processes' output on its way to the launcher's: whole lines, each with its rank before it."""

from __future__ import annotations

import queue
import threading
from typing import BinaryIO

LINE_LIMIT = 16_384
"""Bytes after which a line without an end is cut."""
TAIL_LIMIT = 1_000
"""Bytes of the last output kept for the message of a failure."""
QUEUE_LINES = 10_000


class Lines:
    """Turns the bytes of one process into prefixed lines, and remembers its last words."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self._partial = b""
        self._tail = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, each with prefix and end. Invalid UTF-8 is replaced."""
        self._tail = (self._tail + data)[-TAIL_LIMIT:]
        *whole, self._partial = (self._partial + data).split(b"\n")
        lines = [piece for line in whole for piece in _pieces(line)]
        if len(self._partial) >= LINE_LIMIT:
            *cut, self._partial = _pieces(self._partial)
            lines += cut
        return [self._line(line) for line in lines]

    def close(self) -> list[bytes]:
        """The last line, if it never ended."""
        rest, self._partial = self._partial, b""
        return [self._line(rest)] if rest else []

    @property
    def tail(self) -> str:
        """About the last kilobyte, from the start of a line where that is possible."""
        text = self._tail.decode(errors="replace").strip()
        if len(self._tail) < TAIL_LIMIT or "\n" not in text:
            return text
        return text.split("\n", 1)[1]

    def _line(self, line: bytes) -> bytes:
        return self._prefix + line.rstrip(b"\r").decode(errors="replace").encode() + b"\n"


def _pieces(line: bytes) -> list[bytes]:
    return [line[i : i + LINE_LIMIT] for i in range(0, len(line), LINE_LIMIT)] or [b""]


class Writer:
    """Writes lines from a thread, so that who reads them cannot stop the processes. When full, it drops."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUE_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queues one line; never blocks."""
        try:
            if self._dropped:
                self._queue.put_nowait(b"[launcher] %d lines were dropped: nobody read them\n" % self._dropped)
                self._dropped = 0
            self._queue.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def say(self, text: str) -> None:
        """Queues a line of the launcher's own."""
        for line in text.splitlines():
            self.write(b"[launcher] " + line.encode(errors="replace") + b"\n")

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Waits until everything is written, but not for ever."""
        try:
            self._queue.put(None, timeout=timeout_seconds)
        except queue.Full:
            return
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._out.write(line)
                if self._queue.empty():
                    self._out.flush()
            except (OSError, ValueError):
                return  # nobody reads any more: the training goes on
        self._out.flush()
