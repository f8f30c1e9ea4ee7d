"""`adts selfcheck` says what is wrong, and says it to a script too."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from adts_trainer.commands.selfcheck import selfcheck
from adts_trainer.selfcheck import compare, matrix
from adts_trainer.selfcheck.cells import UNEVEN, Cell
from support.faults import clipped_by_the_local_norm, rank_1_ends_in_step_3, rank_1_never_starts, slow_steps

pytestmark = pytest.mark.distributed


def adts(*arguments: str | Path) -> Result:
    return CliRunner().invoke(selfcheck, [str(argument) for argument in arguments])


@pytest.fixture
def one_cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """The matrix is one line."""
    cell = Cell("ddp", 0, tp=2)
    monkeypatch.setattr("adts_trainer.selfcheck.cells.CELLS", (cell,))
    return cell


def test_it_ends_with_0_when_all_cells_equal_one_process(one_cell: Cell, tmp_path: Path) -> None:
    result = adts("--json", tmp_path / "parity.json", "--markdown", tmp_path / "parity.md")
    assert result.exit_code == 0, result.output
    assert "1 of 1 cells equal one process" in result.output
    (line,) = json.loads((tmp_path / "parity.json").read_text())["cells"]
    assert (line["name"], line["verdict"], line["problem"]) == (one_cell.name, "ok", "")
    assert 0 <= line["gaps"]["parameters"] <= line["bounds"]["parameters"] == 1e-12
    assert "| ddp, stage 0 | tp2 |" in (tmp_path / "parity.md").read_text()


@pytest.mark.usefixtures("one_cell")
def test_a_cell_that_clips_by_the_local_norm_is_over_its_tolerance(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The trap of clip_grad_norm_ under tensor parallelism, in all ranks of a real run."""
    monkeypatch.setattr(matrix, "check", partial(compare.check, prepare=clipped_by_the_local_norm))
    result = adts("--json", tmp_path / "parity.json")
    assert result.exit_code == 1
    assert "0 of 1 cells equal one process" in result.output
    report = json.loads((tmp_path / "parity.json").read_text())
    (line,) = report["cells"]
    assert (report["passed"], line["verdict"]) == (False, "over")
    assert line["gaps"]["norm"] > 0.05


@pytest.mark.usefixtures("one_cell")
def test_a_rank_that_ends_early_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "check", partial(compare.check, prepare=rank_1_ends_in_step_3))
    result = adts()
    assert result.exit_code == 1
    assert "failed" in result.output
    assert "rank 1: 9 at step" in result.output


@pytest.mark.usefixtures("one_cell")
def test_ranks_that_hang_are_killed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "TIMEOUT_SECONDS", 2.0)
    monkeypatch.setattr(matrix, "check", partial(compare.check, prepare=rank_1_never_starts))
    result = adts()
    assert result.exit_code == 1
    assert "still ran after 2 s" in result.output
    assert "rank 1: -9 at step 0 (starting)" in result.output


def test_what_prepares_ranks_does_not_replace_the_data_of_a_cell() -> None:
    """The truth has uneven targets, so that a run without them is far from it."""
    result = compare.check(Cell("ddp", 0, also=(UNEVEN,)), prepare=slow_steps)
    assert result.passed, result
