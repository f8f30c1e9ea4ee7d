"""What `adts selfcheck` shows: rows, JSON, the page, and its command line."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from adts_api.contract import ExitCode
from adts_trainer.commands.selfcheck import selfcheck
from adts_trainer.errors import DeviceMissingError
from adts_trainer.selfcheck import matrix
from adts_trainer.selfcheck.cells import Cell
from adts_trainer.selfcheck.compare import Gaps, Result
from adts_trainer.selfcheck.report import HEADER, Report, as_json, as_markdown, row

EXACT = Gaps(1e-12, 1e-12, 1e-12)
GOOD = Result(Cell("ddp", 0, dp=2), 2.5, Gaps(8.9e-16, 2.2e-15, 3.0e-14), EXACT)
OVER = Result(Cell("native", 3, dp=2, precision="fp32"), 3.0, Gaps(1e-3, 2e-3), Gaps(1e-6, 2e-6))
FAILED = Result(Cell("native", 0, pp=2, schedule="GPipe"), 1.0, problem="lost | rank 1; rank 0: 64")
REPORT = Report([GOOD, OVER, FAILED], [Cell("ddp", 0, dp=4)], "cpu", 65.4)


def test_rows_stand_below_their_header() -> None:
    assert row(GOOD) == "ok     8.9e-16  2.2e-15  3.0e-14  1.0e-12             2.5s  ddp stage 0, dp2, fp64"
    assert row(OVER) == "over   1.0e-03  2.0e-03           1.0e-06, 2.0e-06    3.0s  native stage 3, dp2, fp32"
    assert row(FAILED).startswith("failed ")
    assert row(FAILED).endswith("native stage 0, pp2, GPipe, fp64: lost | rank 1; rank 0: 64")
    assert row(GOOD).index("ddp stage") == HEADER.index("cell") == row(OVER).index("native")


def test_json_holds_everything() -> None:
    report = json.loads(json.dumps(as_json(REPORT)))
    assert [cell["verdict"] for cell in report["cells"]] == ["ok", "over", "failed"]
    assert report["passed"] is False
    assert report["leftOut"] == ["ddp stage 0, dp4, fp64"]
    first = report["cells"][0]
    assert (first["engine"], first["dp"], first["gaps"]["norm"]) == ("ddp", 2, 2.2e-15)
    assert f"torch {torch.__version__}" in report["machine"]


def test_json_has_no_nan() -> None:
    result = Result(GOOD.cell, 1.0, Gaps(math.nan, 1.0, None), EXACT)
    assert "NaN" in json.dumps(asdict(result))
    (cell,) = json.loads(json.dumps(as_json(Report([result], [], "cpu", 1.0)), allow_nan=False))["cells"]
    assert (cell["verdict"], cell["gaps"]["loss"], cell["gaps"]["norm"]) == ("over", None, 1.0)


def test_the_page_has_a_line_for_each_cell_and_the_refusals() -> None:
    page = as_markdown(REPORT)
    assert page.startswith("<!-- Generated")
    assert "1 of 3 cells equal one process, in 1 min 5 s; 1 need more GPUs than there are" in page
    lines = [line for line in page.splitlines() if line.startswith(("| ddp", "| native"))]
    assert len(lines) == 3
    assert {line.count("|") for line in lines} == {12}
    assert "InterleavedZeroBubble with zero.stage 3 trains wrongly" in page.partition("## Refused")[2]


def test_results_are_printed_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    results = {result.cell: result for result in (GOOD, OVER)}
    output = io.StringIO()
    seen = []

    def check(cell: Cell, device: str) -> Result:
        seen.append(output.getvalue())
        return results[cell]

    monkeypatch.setattr(matrix, "check", check)
    report = matrix.run_matrix(list(results), "cpu", Console(file=output, width=40))
    assert [row(GOOD) in text for text in seen] == [False, True]
    assert report.failed == [OVER]


def test_on_a_terminal_the_running_cell_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "check", lambda cell, device: GOOD)
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    matrix.run_matrix([GOOD.cell], "cpu", console)
    assert "1 of 1, 0 failed" in output.getvalue()


def test_cells_that_need_more_gpus_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(matrix, "check", lambda cell, device: GOOD)
    larger = Cell("ddp", 0, dp=4)
    report = matrix.run_matrix([GOOD.cell, larger], "cuda", Console(file=io.StringIO()))
    assert (report.results, report.left_out) == ([GOOD], [larger])
    with pytest.raises(DeviceMissingError, match="cuda has 2 devices, and no chosen cell runs on fewer than 4"):
        matrix.run_matrix([larger], "cuda", Console(file=io.StringIO()))


def test_only_takes_cells_with_all_of_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Cell] = []

    def run_matrix(cells: list[Cell], device: str, console: Console) -> Report:
        chosen.extend(cells)
        return Report([GOOD], [], device, 1.0)

    monkeypatch.setattr(matrix, "run_matrix", run_matrix)
    result = CliRunner().invoke(selfcheck, ["--only", "native stage 3", "--only", "tp2", "--quick"])
    assert result.exit_code == 0, result.output
    assert {(cell.stage, cell.tp, cell.quick) for cell in chosen} == {(3, 2, True)}


def test_only_that_finds_nothing_is_refused() -> None:
    result = CliRunner().invoke(selfcheck, ["--only", "stage 9"])
    assert result.exit_code == ExitCode.BAD_CONFIG
    assert "no cell has 'stage 9' in its name" in result.output
