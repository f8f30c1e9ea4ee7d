"""Gradients between shards in a format of their own. Formats of the computation are cells of the matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.ranks import run_job, spec

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("wire", ["bf16", "fp16"])
@pytest.mark.parametrize(
    "zero", [{"stage": 1}, {"stage": 2}, {"stage": 3}, {"stage": 2, "engine": "deepspeed"}], ids=str
)
def test_gradients_between_shards_travel_in_a_format_of_their_own(
    zero: dict[str, Any], wire: str, tmp_path: Path
) -> None:
    """Rounded a little, near the curve of fp32, and not equal to it: else the field had no effect."""
    runs = []
    for reduce_dtype in ("auto", wire):
        folder = tmp_path / reduce_dtype
        folder.mkdir()
        job = spec(zero=zero, precision={"dtype": "fp32", "reduceDtype": reduce_dtype}, training={"steps": 8})
        runs.append(run_job(folder, 2, job).expect())
    gap = max(abs(a - b) for a, b in zip(*(run.series("loss") for run in runs), strict=True))
    assert 0 < gap < 1e-3
    whole, rounded = (run.heartbeats[0].wire_bytes_per_step for run in runs)
    assert rounded < whole
