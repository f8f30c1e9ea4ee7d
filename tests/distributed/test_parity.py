"""Training over several processes equals a plain torch loop in one: every cell of the matrix of `adts selfcheck`."""

from __future__ import annotations

import pytest

from adts_trainer.selfcheck.cells import CELLS, Cell
from adts_trainer.selfcheck.compare import check
from adts_trainer.selfcheck.report import HEADER, row

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_twenty_clipped_adamw_steps_equal_one_process(cell: Cell) -> None:
    result = check(cell)
    print(f"\n{HEADER}\n{row(result)}")
    assert result.passed, row(result)
