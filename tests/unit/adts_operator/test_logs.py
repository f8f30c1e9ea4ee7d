"""Lines of the operator's log."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from adts_operator.logs import JsonFormatter, TextFormatter, configure, job_context


def log_record(message: str, *values: object, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("adts_operator.reconciler", logging.WARNING, "x.py", 1, message, values, None)
    record.created = 1_800_000_000.25
    record.__dict__.update(fields)
    return record


def test_a_json_line_names_the_job_it_is_about() -> None:
    with job_context(namespace="team-a", name="gpt2", attempt=3):
        line = JsonFormatter().format(log_record("pod %s\nis gone: ü", "gpt2-0-3"))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "warning",
        "logger": "adts_operator.reconciler",
        "message": "pod gpt2-0-3\nis gone: ü",
        "namespace": "team-a",
        "name": "gpt2",
        "attempt": 3,
    }


def test_outside_of_a_job_there_is_none() -> None:
    with job_context(namespace="team-a", name="gpt2"):
        pass
    assert set(json.loads(JsonFormatter().format(log_record("x")))) == {"time", "level", "logger", "message"}


async def test_tasks_do_not_mix_up_their_jobs() -> None:
    async def work(name: str) -> str:
        with job_context(namespace="ns", name=name):
            await asyncio.sleep(0)
            return str(json.loads(JsonFormatter().format(log_record("x")))["name"])

    assert await asyncio.gather(work("a"), work("b")) == ["a", "b"]


def test_a_traceback_stays_in_its_line() -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        line = JsonFormatter().format(log_record("failed", exc_info=sys.exc_info()))
    assert "ValueError: bad" in json.loads(line)["traceback"]


def test_a_text_line_is_for_people() -> None:
    formatter = TextFormatter()
    assert formatter.format(log_record("hello")) == "2027-01-15T08:00:00.250Z WARNING  hello"
    with job_context(namespace="team-a", name="gpt2", attempt=3):
        line = formatter.format(log_record("hello"))
    assert line == "2027-01-15T08:00:00.250Z WARNING  team-a/gpt2 attempt 3: hello"


@pytest.fixture
def _loggers_as_before() -> Iterator[None]:
    root, ours, kopf = logging.getLogger(), logging.getLogger("adts_operator"), logging.getLogger("kopf")
    before = [(it, it.level, list(it.handlers)) for it in (root, ours, kopf)]
    yield
    logging.captureWarnings(False)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


@pytest.mark.usefixtures("_loggers_as_before")
def test_libraries_say_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    configure("debug", "json")
    logging.getLogger("adts_operator.informer").debug("ours")
    for library in ("kopf.objects", "aiohttp.access", "kubernetes"):
        logging.getLogger(library).info("theirs")
        logging.getLogger(library).warning("trouble")
    messages = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    assert messages == ["ours", "trouble", "trouble", "trouble"]
