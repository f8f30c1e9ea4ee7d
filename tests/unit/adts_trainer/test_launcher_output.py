"""Output of the processes: whole lines with their rank, whatever the bytes."""

from __future__ import annotations

import io
import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from adts_trainer.launch.output import LINE_LIMIT, QUEUE_LINES, TAIL_LIMIT, Lines, Writer


def test_lines_get_a_prefix():
    assert Lines("[rank 1] ").feed(b"a\nb\n") == [b"[rank 1] a\n", b"[rank 1] b\n"]


def test_a_partial_line_waits_for_its_end():
    lines = Lines("> ")
    assert lines.feed(b"hel") == []
    assert lines.feed(b"lo\nwor") == [b"> hello\n"]
    assert lines.close() == [b"> wor\n"]
    assert lines.close() == []


def test_a_huge_line_is_cut():
    lines = Lines("> ")
    out = lines.feed(b"x" * (2 * LINE_LIMIT + 10)) + lines.close()
    assert [len(line) for line in out] == [LINE_LIMIT + 3, LINE_LIMIT + 3, 13]


def test_bytes_that_are_no_text_are_replaced():
    assert Lines("> ").feed(b"a\xffb\r\n") == ["> a\N{REPLACEMENT CHARACTER}b\n".encode()]


def test_the_tail_is_the_last_kilobyte_from_a_line_start():
    lines = Lines("> ")
    lines.feed(b"first\n" + b"y" * TAIL_LIMIT + b"\nlast words\nno end")
    assert lines.tail == "last words\nno end"
    assert Lines("> ").tail == ""


@given(st.lists(st.binary(max_size=40)))
def test_no_cut_of_the_stream_changes_the_lines(chunks):
    whole, parts = Lines("> "), Lines("> ")
    one = whole.feed(b"".join(chunks)) + whole.close()
    many = [line for chunk in chunks for line in parts.feed(chunk)] + parts.close()
    assert one == many


def test_the_writer_writes_everything_before_it_closes():
    out = io.BytesIO()
    writer = Writer(out)
    for i in range(100):
        writer.write(b"%d\n" % i)
    writer.say("two\nlines")
    writer.close()
    assert out.getvalue() == b"".join(b"%d\n" % i for i in range(100)) + b"[launcher] two\n[launcher] lines\n"


class Stalled(io.BytesIO):
    """A terminal that somebody stopped with Ctrl-S."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def write(self, data) -> int:
        self.goes_on.wait(10)
        return super().write(data)


def test_a_reader_that_stops_reading_blocks_nobody_and_learns_what_it_missed():
    out = Stalled()
    writer = Writer(out)
    started = time.monotonic()
    for _ in range(2 * QUEUE_LINES):
        writer.write(b"line\n")
    assert time.monotonic() - started < 5.0
    out.goes_on.set()
    while out.getvalue().count(b"\n") < QUEUE_LINES:
        time.sleep(0.01)
    writer.say("after")
    writer.close()
    assert b"lines were dropped: nobody read them\n[launcher] after\n" in out.getvalue()
