"""`adts report`: what the page says about a job, and its messages when it cannot say anything."""

import json

import pytest

from adts_api.errors import AdtsError
from adts_trainer.report import read_metrics, render, write_report

JOB = {
    "metadata": {"name": "quick"},
    "spec": {"precision": {"dtype": "fp32"}},
    "status": {
        "phase": "Succeeded",
        "layout": "dp2, zero 0",
        "attempt": 2,
        "rounds": 1,
        "progress": {"step": 20, "steps": 20},
        "restarts": [{"time": "2026-01-01T00:00:00Z", "scope": "round", "pod": "quick-0-1", "reason": "Signal9"}],
    },
}
METRICS = [
    {"step": 10, "loss": 3.0, "tokens_per_second": 100.0, "wire_bytes_per_step": 4000},
    {"step": 20, "loss": 2.0, "tokens_per_second": 300.0, "wire_bytes_per_step": 4000},
    {"step": 20, "evaluation_loss": 2.25},
]


def test_page_compares_the_held_out_loss_with_the_baselines() -> None:
    page = render(JOB, METRICS, {"bigram": 2.45, "trigram": 1.86})
    assert "| **this model** | **2.250** at step 20 |" in page
    assert "| bigram counts | 2.450, beaten by 0.200 |" in page
    assert "| trigram counts | 1.860, not beaten by 0.390 |" in page


def test_page_tells_layout_progress_speed_and_restarts() -> None:
    page = render(JOB, METRICS, {})
    for line in (
        "| layout | dp2, zero 0, fp32 |",
        "| steps | 20 of 20 |",
        "| tokens/s, median | 300 |",
        "| training loss | 2.0000 at step 20 |",
        "| 2026-01-01T00:00:00Z | round | quick-0-1 | Signal9 |",
    ):
        assert line in page


def test_files_are_written_and_a_torn_line_is_left_out(tmp_path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "job.json").write_text(json.dumps(JOB))
    lines = "\n".join(json.dumps(row) for row in METRICS) + '\n{"step": 30, "lo'
    (tmp_path / "checkpoints" / "metrics.jsonl").write_text(lines)
    assert len(read_metrics(tmp_path / "checkpoints" / "metrics.jsonl")) == 3
    write_report(tmp_path, None)
    assert (tmp_path / "report.md").read_text().startswith("# quick\n")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "job.json: cannot be read"),
        ({"job.json": "{"}, "is not the folder of an `adts run`; give runs/<job>"),
        ({"job.json": json.dumps(JOB)}, "metrics.jsonl: cannot be read"),
        ({"job.json": json.dumps(JOB), "checkpoints/metrics.jsonl": ""}, "holds no metrics yet"),
    ],
    ids=["no job", "damaged job", "no metrics file", "empty metrics file"],
)
def test_what_is_missing_is_named(tmp_path, files, message) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(AdtsError, match=message):
        write_report(tmp_path, None)
