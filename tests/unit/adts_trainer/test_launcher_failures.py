"""Why a process ended, in words."""

from __future__ import annotations

import pytest

from adts_api.contract import ExitCode
from adts_trainer.heartbeat import Heartbeat
from adts_trainer.launch.failures import Place, failure_of, too_early
from adts_trainer.launch.messages import MESSAGE_LIMIT, shorten
from adts_trainer.launch.ranks import Ended

PLACE = Place(node=1, pod="gpt2-1-2", machine="worker-b")


def describe(code: int, beat: Heartbeat | None = None, tail: str = "", *, memory: bool = False):
    return failure_of(Ended(3, code, False, tail), beat, PLACE, was_memory_kill=memory, peak_bytes=3 * 2**30)


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        pytest.param(describe(-9), "rank 3: Signal9: it was killed by SIGKILL without a word", id="silent signal"),
        pytest.param(
            describe(-11, tail="Fatal"),
            "rank 3: Signal11: it was killed by SIGSEGV; its last output:\nFatal",
            id="tail",
        ),
        pytest.param(describe(17), "rank 3: Exit17: it exited with code 17 without a word", id="unknown code"),
        pytest.param(
            describe(4, Heartbeat(error="data.bin: is empty", exit_code=4), "noise"),
            "rank 3: BadData: data.bin: is empty",
            id="its own words",
        ),
        pytest.param(
            describe(-9, Heartbeat(error="data.bin: is empty", exit_code=4)),
            "rank 3: Signal9: it was killed by SIGKILL without a word",
            id="words about another end",
        ),
        pytest.param(
            describe(-9, memory=True),
            "rank 3: OutOfMemory: the kernel killed it for memory; the container's peak was 3.00 GiB",
            id="out of memory",
        ),
        pytest.param(
            describe(1, memory=True), "rank 3: Crash: it exited with code 1 without a word", id="not by SIGKILL"
        ),
    ],
)
def test_the_message_of_a_failure(failure, text):
    assert str(failure) == text
    assert (failure.node, failure.pod, failure.machine) == (1, "gpt2-1-2", "worker-b")


@pytest.mark.parametrize(
    ("code", "beat", "expected"),
    [
        (0, Heartbeat(exit_code=0), 0),
        (0, Heartbeat(phase="training", step=2, steps=9), ExitCode.CRASH),
        (0, None, 0),
        (66, Heartbeat(phase="training"), 66),
    ],
    ids=["it said so", "in the middle", "a target without heartbeats", "another code"],
)
def test_code_0_before_the_end_is_a_crash(code, beat, expected):
    ended = too_early(Ended(0, code, False, "tail"), beat)
    assert ended.code == expected
    assert ("exited with code 0 before its last step" in ended.tail) == (expected == ExitCode.CRASH)


def test_a_lost_peer_is_a_consequence_and_nothing_else_is():
    assert describe(ExitCode.LOST_PEER).is_consequence
    assert not describe(-9).is_consequence


def test_a_long_message_loses_its_middle():
    text = shorten("start" + "x" * 10_000 + "end")
    assert len(text) < MESSAGE_LIMIT + 50
    assert text.startswith("start")
    assert text.endswith("end")
