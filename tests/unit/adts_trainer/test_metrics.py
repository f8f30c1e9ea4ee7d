"""What a run says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adts_api.v1alpha1 import Spec
from adts_trainer import heartbeat
from adts_trainer.context import RankContext
from adts_trainer.divergence import Verdict
from adts_trainer.errors import StorageError
from adts_trainer.heartbeat import HeartbeatWriter
from adts_trainer.metrics import Metrics, peak_flops, truncate
from adts_trainer.state import TrainState
from adts_trainer.step import Flags, StepResult
from support.ranks import Place


def spec(folder: Path, **training: object) -> Spec:
    fields = {"steps": 100, "globalBatchSize": 4, "logEverySteps": 10, "tensorboard": False, **training}
    return Spec.model_validate({"training": fields, "checkpoint": {"path": str(folder)}})


def metrics(folder: Path, context: RankContext, job: Spec | None = None, peak: float | None = None) -> Metrics:
    writer = HeartbeatWriter(context.heartbeat_path, context.round, interval=0)
    return Metrics(
        job or spec(folder),
        context,
        writer,
        tokens_per_sample=8,
        flops_per_sample=800.0,
        peak=peak,
        wire_bytes=77,
        traffic=lambda: None,
    )


@pytest.fixture
def context(tmp_path: Path) -> RankContext:
    return Place(tmp_path, port=1).context(0, world=2)


def result(loss: float | None, problem: str = "") -> StepResult:
    return StepResult(Verdict.APPLY, problem, 0.91, 1e-3, loss, 5, Flags())


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("done", "wanted"), [(1, True), (2, False), (9, False), (10, True), (95, False), (100, True)])
def test_the_first_the_last_and_every_tenth_step_are_logged(
    done: int, wanted: bool, tmp_path: Path, context: RankContext
) -> None:
    assert metrics(tmp_path, context).wants_loss(done - 1) is wanted


def test_a_logged_step_is_a_line_of_text_a_line_of_json_and_a_heartbeat(
    tmp_path: Path, context: RankContext, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = metrics(tmp_path, context, peak=1e6)
    recorder.start(30)
    recorder.record(TrainState(step=40), result(2.3121))
    (line,) = lines(tmp_path)
    assert {
        name: line[name] for name in ("step", "loss", "gradient_norm", "wire_bytes_per_step", "samples_digest")
    } == {
        "step": 40,
        "loss": 2.3121,
        "gradient_norm": 0.91,
        "wire_bytes_per_step": 77,
        "samples_digest": 5,
    }
    speed = line["tokens_per_second"]
    assert isinstance(speed, float)
    assert speed == pytest.approx(32 / float(str(line["seconds"])))
    assert line["mfu"] == pytest.approx(speed * 100 / 2e6)
    beat = heartbeat.read(context.heartbeat_path)
    assert beat is not None
    assert (beat.step, beat.steps, beat.loss, beat.wire_bytes_per_step) == (40, 100, 2.3121, 77)
    assert beat.eta_seconds == pytest.approx(60 * float(str(line["seconds"])))
    printed = capsys.readouterr().out
    assert printed.startswith("step 40/100  loss 2.3121  lr 1.0e-03  norm 0.91  ")
    assert "tokens/s" in printed


def test_a_step_between_moves_the_heartbeat_only(tmp_path: Path, context: RankContext) -> None:
    recorder = metrics(tmp_path, context)
    recorder.start(0)
    recorder.record(TrainState(step=3), result(None))
    assert not (tmp_path / "metrics.jsonl").exists()
    beat = heartbeat.read(context.heartbeat_path)
    assert beat is not None
    assert beat.step == 3


def test_other_ranks_write_no_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = metrics(tmp_path, Place(tmp_path, port=1).context(1, world=2))
    recorder.start(0)
    recorder.record(TrainState(step=10), result(1.0, "a problem"))
    recorder.record_evaluation(10, 1.5)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert capsys.readouterr().out == ""
    beat = heartbeat.read(Place(tmp_path, port=1).context(1, world=2).heartbeat_path)
    assert beat is not None
    assert (beat.loss, beat.evaluation_loss) == (1.0, 1.5)


def test_what_came_after_the_resumed_step_is_dropped(tmp_path: Path, context: RankContext) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "loss": 1}\n{"step": 5, "evaluation_loss": 2}\n{"step": 6, "loss": 1}\n{"step": 1')
    metrics(tmp_path, context).start(5)
    assert lines(tmp_path) == [{"step": 5, "loss": 1}, {"step": 5, "evaluation_loss": 2}]


def test_truncating_nothing_creates_nothing(tmp_path: Path) -> None:
    truncate(tmp_path / "metrics.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_events_are_written_where_asked_for(tmp_path: Path, context: RankContext) -> None:
    recorder = metrics(tmp_path, context, spec(tmp_path, tensorboard=True))
    recorder.start(0)
    recorder.record(TrainState(step=10), result(1.0))
    recorder.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"training/loss" in file.read_bytes()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, context: RankContext) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"below/metrics\.jsonl: cannot write: Not a directory"):
        metrics(tmp_path, context, spec(tmp_path / "file" / "below")).start(0)


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "fp16", 756e12),
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA H100 80GB HBM3", "fp32", None),
        ("Some Future GPU", "bf16", None),
    ],
)
def test_the_peak_goes_by_the_device_name(
    name: str, dtype: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda", 0), dtype) == peak


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_flops(torch.device("cpu"), "bf16") is None
