"""Low precision stays close to full precision, by bounds that are stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.ranks import Finished, run_job, spec

pytestmark = pytest.mark.distributed


def gap(run: Finished, other: Finished, name: str) -> float:
    """Largest difference of a series over the steps."""
    return max(abs(a - b) for a, b in zip(run.series(name), other.series(name), strict=True))


def test_fp32_is_as_close_to_one_process_as_rounding_allows(tmp_path: Path) -> None:
    """The yardstick: two one-process runs that differ in nothing but the number of micro-batches."""

    def run(name: str, world: int, **changes: Any) -> Finished:
        return run_job(tmp_path / name, world, spec(precision={"dtype": "fp32"}, **changes)).expect()

    one = run("one", 1)
    split = run("split", 1, parallelism={"microbatches": 4})
    ddp, sharded = run("ddp", 2), run("stage 3", 2, zero={"stage": 3})
    for name in ("loss", "gradient_norm"):
        bound = max(1e-6, 4 * gap(split, one, name))
        print(f"{name}: ddp {gap(ddp, one, name):.1e}, stage 3 {gap(sharded, one, name):.1e}, bound {bound:.1e}")
        assert gap(ddp, one, name) <= bound
        assert gap(sharded, one, name) <= bound


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize(("dtype", "bound"), [("bf16", 2e-2), ("fp16", 3e-3)])
def test_half_precision_follows_the_full_loss(dtype: str, bound: float, stage: int, tmp_path: Path) -> None:
    full = run_job(tmp_path / "full", 1, spec(precision={"dtype": "fp32"})).expect()
    half = run_job(tmp_path / "half", 2, spec(precision={"dtype": dtype}, zero={"stage": stage})).expect()
    print(f"{dtype}, stage {stage}: {gap(half, full, 'loss'):.1e}")
    assert 0 < gap(half, full, "loss") <= bound
