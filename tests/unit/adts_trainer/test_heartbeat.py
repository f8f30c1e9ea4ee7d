"""Heartbeats: written by a rank, read by its launcher."""

from __future__ import annotations

import json
import math

import pytest

from adts_trainer.heartbeat import Heartbeat, HeartbeatWriter, read


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "rank-0.json"
    HeartbeatWriter(path, 2).update(phase="training", step=7, loss=1.5, force=True)
    beat = read(path)
    assert (beat.round, beat.phase, beat.step, beat.loss) == (2, "training", 7, 1.5)
    assert beat.time > 0


def test_before_the_first_write_there_is_none(tmp_path):
    assert read(tmp_path / "rank-0.json") is None


def test_a_half_written_or_foreign_file_is_no_heartbeat(tmp_path):
    path = tmp_path / "rank-0.json"
    for text in ("", '{"step": 3', "[]", "7"):
        path.write_text(text)
        assert read(path) is None


def test_fields_of_a_newer_trainer_are_ignored(tmp_path):
    path = tmp_path / "rank-0.json"
    path.write_text(json.dumps({"step": 3, "temperature": 40}))
    assert read(path) == Heartbeat(step=3)


def test_frequent_updates_are_kept_but_not_all_written(tmp_path):
    path = tmp_path / "rank-0.json"
    writer = HeartbeatWriter(path, 0, interval=60.0)
    writer.update(phase="training", step=1)
    writer.update(step=2)
    assert (read(path).step, writer.current.step) == (1, 2)


def test_a_new_phase_is_written_at_once(tmp_path):
    path = tmp_path / "rank-0.json"
    writer = HeartbeatWriter(path, 0, interval=60.0)
    writer.update(phase="training", step=1)
    writer.update(phase="saving", step=2)
    assert read(path).phase == "saving"


def test_a_loss_that_is_not_finite_survives(tmp_path):
    path = tmp_path / "rank-0.json"
    HeartbeatWriter(path, 0).update(loss=math.nan, force=True)
    assert math.isnan(read(path).loss)


WRONG = {
    "step": "x",
    "steps": True,
    "loss": "nan",
    "checkpoint_step": "7",
    "checkpoint_path": 7,
    "checkpoint_at": None,
    "wire_bytes_per_step": -1,
    "exit_code": 1.5,
    "phase": ["training"],
    "time": "now",
    "mfu": 10**400,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_of_another_type_is_left_out(name, tmp_path):
    path = tmp_path / "rank-0.json"
    path.write_text(json.dumps({"round": 2, "tokens_per_second": 5, name: WRONG[name]}))
    assert read(path) == Heartbeat(round=2, tokens_per_second=5)
