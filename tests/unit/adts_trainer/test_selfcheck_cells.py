"""The matrix has a cell for everything that validation lets pass."""

from __future__ import annotations

import pytest

from adts_api import cells as api
from adts_trainer.selfcheck.cells import CELLS, Cell
from adts_trainer.selfcheck.coverage import layouts, missing, offloads, precisions, refusals

CHOICES = {
    "spec.zero.engine",
    "spec.zero.stage",
    "spec.zero.offload.optimizer",
    "spec.zero.offload.parameters",
    "spec.parallelism.pipeline",
    "spec.parallelism.schedule",
    "spec.precision.dtype",
}
"""What a combination may be refused for: anything else would be an accident of the spec around it."""


def test_every_supported_combination_is_run() -> None:
    assert [cell.name for cell in missing(CELLS)] == []


def test_all_others_are_refused_for_what_they_are() -> None:
    refused = [error for cell in (*layouts(), *precisions(), *offloads()) for error in refusals(cell)]
    assert refused
    assert {error.path for error in refused} <= CHOICES


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_every_cell_is_a_valid_job(cell: Cell) -> None:
    assert [str(error) for error in refusals(cell)] == []


def test_names_tell_cells_apart() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS)


def test_quick_is_at_most_twelve_cells_of_every_kind() -> None:
    quick = [cell for cell in CELLS if cell.quick]
    assert len(quick) <= 12
    assert {cell.engine for cell in quick} == {cell.engine for cell in CELLS}
    assert {cell.stage for cell in quick} == {0, 1, 2, 3}
    assert any(cell.world == 8 for cell in quick)


@pytest.mark.parametrize(
    "is_left_out",
    [
        lambda cell: cell.engine == "native" and cell.stage == 3 and cell.tp > 1 and cell.schedule == "1F1B",
        lambda cell: cell.stage == 2 and cell.precision == "bf16",
        lambda cell: cell.schedule == "DualPipeV" and cell.stage == 0 and cell.tp == 1,
    ],
    ids=["a layout", "a format", "a schedule"],
)
def test_a_combination_without_a_cell_is_found(is_left_out: object) -> None:
    assert callable(is_left_out)
    assert missing(cell for cell in CELLS if not is_left_out(cell))


def test_an_engine_without_fp64_is_asked_for_its_layouts_in_another_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp64 all of them would be refused, and none would be missed."""
    row = api.Cell("deepspeed", 1, ("fp32", "bf16"))
    monkeypatch.setattr(api, "CELLS", (row,))
    naive = [Cell("deepspeed", 1, dp=2, precision="fp64"), Cell("deepspeed", 1, dp=2, tp=2, precision="fp64")]
    assert all(refusals(cell) for cell in naive)
    wanted = missing(())
    assert Cell("deepspeed", 1, dp=2, precision="fp32") in wanted
    assert Cell("deepspeed", 1, dp=2, tp=2, precision="fp32") in wanted
    assert Cell("deepspeed", 1, dp=2, precision="bf16") in wanted


def test_a_cell_is_named_after_what_it_is() -> None:
    cell = Cell("native", 2, dp=2, tp=2, schedule="", microbatches=2, also=("recomputed", "2 shards"))
    assert cell.name == "native stage 2, dp2 x tp2, fp64, 2 micro-batches, recomputed, 2 shards"
    assert Cell("ddp", 0).name == "ddp stage 0, one process, fp64"


@pytest.mark.parametrize(
    ("cell", "layers"),
    [
        (Cell("native", 0, pp=2, schedule="1F1B"), 3),
        (Cell("native", 0, pp=2, schedule="DualPipeV"), 5),
        (Cell("native", 0, pp=4, schedule="1F1B"), 5),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_layers_never_divide_evenly_over_stages(cell: Cell, layers: int) -> None:
    assert cell.spec()["model"]["layers"] == layers
