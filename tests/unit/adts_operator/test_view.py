"""What a run looks like: plain lines in a pipe, one panel on a terminal, a picture of it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from adts_api.contract import Reason
from adts_api.v1alpha1 import CheckpointStatus, DistributedTraining, Progress, Restart
from adts_operator.core.plan import Event
from adts_operator.view import LiveView, View, duration, save_picture, sparkline, thinned
from support.operator_jobs import running


def job(step: int = 40, loss: float = 2.5) -> DistributedTraining:
    base = running()
    status = base.status.model_copy(
        update={
            "progress": Progress(
                step=step, steps=100, loss=loss, evaluation_loss=2.75, tokens_per_second=12345.6, eta_seconds=200.0
            ),
            "checkpoint": CheckpointStatus(step=30, path="runs/demo/checkpoints/30-1"),
            "rounds": 1,
            "restarts": [Restart(time="2027-01-15T08:00:00Z", scope="round", pod="demo-1-1", reason="Signal9")],
        }
    )
    return base.model_copy(update={"status": status})


def test_plain_lines_pass_through_unchanged() -> None:
    out = io.StringIO()
    with View(Console(file=out, width=40)) as view:
        view.show(job(), ["[rank 0] step 40/100 loss 2.5  and a line that is much longer than the console"])
        view.tell(Event(type="Warning", reason=Reason.WORKER_FAILED, message="demo-1-1 exited with code 1 (Crash)"))
        view.say("bye")
    assert out.getvalue().splitlines() == [
        "[rank 0] step 40/100 loss 2.5  and a line that is much longer than the console",
        "[adts] WorkerFailed: demo-1-1 exited with code 1 (Crash)",
        "[adts] bye",
    ]


def test_the_panel_shows_where_the_job_stands() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out, force_terminal=True, width=100, _environ={})) as view:
        view.show(job(30, 3.0), ["[rank 0] step 30"])
        view.show(job(40, 2.5), ["[rank 0] [not markup]"])
    text = out.getvalue()
    for part in (
        "demo",
        "Running",
        "40 of 100",
        "2.5000  █▁",
        "2.7500",
        "12,346 tokens/s",
        "3 min 20 s",
        "dp2, zero 0, attempt 1",
        "1 in place, 0 of the gang; last: demo-1-1 Signal9",
        "step 30, runs/demo/checkpoints/30-1",
        "[rank 0] [not markup]",
    ):
        assert part in text


def test_the_picture_is_an_svg(tmp_path: Path) -> None:
    view = View(Console(file=io.StringIO()))
    view.show(job(), ["[rank 0] step 40"])
    save_picture(job(), view.panel, tmp_path / "run.svg")
    text = (tmp_path / "run.svg").read_text()
    assert text.startswith("<svg")
    assert "2.7500" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (9000, "2 h 30 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([1.0], ""), ([1.0, 1.0], "▁▁"), ([8.0, 1.0], "█▁"), ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█")],
)
def test_sparkline(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars


@pytest.mark.parametrize(
    ("values", "most", "means"),
    [([], 3, []), ([1.0, 2.0], 3, [1.0, 2.0]), ([1.0, 3.0, 5.0, 7.0], 2, [2.0, 6.0]), ([3.0, 1.0, 2.0], 2, [3.0, 1.5])],
    ids=["none", "few enough", "equal parts", "nearly equal parts"],
)
def test_many_values_become_means_of_parts(values: list[float], most: int, means: list[float]) -> None:
    assert thinned(values, most) == means
