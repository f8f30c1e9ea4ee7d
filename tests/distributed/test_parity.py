"""Training over several processes equals a plain torch loop in one: every cell of the matrix of `adts selfcheck`."""

from __future__ import annotations

from pathlib import Path

import pytest

from adts_trainer.selfcheck.cells import CELLS, Cell
from adts_trainer.selfcheck.compare import check
from adts_trainer.selfcheck.report import HEADER, row
from support.ranks import run_job, spec

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_twenty_clipped_adamw_steps_equal_one_process(cell: Cell) -> None:
    result = check(cell)
    print(f"\n{HEADER}\n{row(result)}")
    assert result.passed, row(result)


@pytest.mark.parametrize("layers", [2, 3])
def test_an_mlp_cut_over_tensor_ranks_equals_one_process(layers: int, tmp_path: Path) -> None:
    sizes = {"type": "mlp", "layers": layers, "hiddenSize": 33, "inputSize": 16, "outputSize": 5, "dropout": 0.1}
    changes = {"model": sizes, "data": {"type": "synthetic"}, "training": {"steps": 8}}
    runs = []
    for tensor in (1, 2):
        job = spec(**changes, parallelism={"tensor": tensor}, workers={"processesPerWorker": tensor})
        del job["data"]["sequenceLength"]
        folder = tmp_path / f"tensor-{tensor}"
        folder.mkdir()
        runs.append(run_job(folder, tensor, job).expect())
    for series in ("loss", "gradient_norm"):
        alone, cut = (run.series(series) for run in runs)
        assert max(abs(a - b) for a, b in zip(alone, cut, strict=True)) <= 1e-12
