"""Logs of the operator: an object a line, or text for people. Each line within `job_context` names its job."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from adts_operator.settings import LogFormat, LogLevel

_job: ContextVar[Mapping[str, str | int] | None] = ContextVar("job", default=None)


@contextmanager
def job_context(*, namespace: str, name: str, attempt: int | None = None) -> Iterator[None]:
    """Lines logged inside, also by tasks that are started inside, carry the job."""
    fields: dict[str, str | int] = {"namespace": namespace, "name": name}
    if attempt is not None:
        fields["attempt"] = attempt
    token = _job.set(fields)
    try:
        yield
    finally:
        _job.reset(token)


def configure(level: LogLevel, style: LogFormat) -> None:
    """Sends all logs to standard error. The level is ours; libraries, kopf among them, say only warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("adts_operator").setLevel(level.upper())


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message; namespace, name and attempt; traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str | int] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_job.get() or {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """One line for people: time, level, job, message."""

    def __init__(self) -> None:
        super().__init__("%(when)s %(levelname)-8s %(job)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.when, record.job = _time(record), ""
        if job := _job.get():
            attempt = f" attempt {job['attempt']}" if "attempt" in job else ""
            record.job = f"{job['namespace']}/{job['name']}{attempt}: "
        return super().format(record)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
