"""Each trap of parallel training is seen by the matrix: with the obvious code a cell is over its bounds."""

from __future__ import annotations

import pytest

from adts_trainer.selfcheck.cells import LLAMA, Cell
from adts_trainer.selfcheck.compare import check
from adts_trainer.selfcheck.runner import Prepare
from support import naive

pytestmark = pytest.mark.distributed

SEQUENCE = "sequence parallel"
CASES: dict[str, tuple[Cell, Prepare]] = {
    "the norm under tensor parallelism": (Cell("ddp", 0, tp=2), naive.every_rank_counts_all_it_has),
    "the norm between replicas": (Cell("native", 0, dp=2), naive.every_rank_counts_all_it_has),
    "the gradient of tied embeddings": (
        Cell("native", 0, pp=2, schedule="1F1B"),
        naive.copies_of_the_embedding_stay_apart,
    ),
    "the gradient of tied embeddings on one rank": (
        Cell("native", 0, pp=2, schedule="ZBVZeroBubble"),
        naive.copies_of_the_embedding_stay_apart,
    ),
    "the norm of tied embeddings": (Cell("native", 0, pp=2, schedule="1F1B"), naive.the_copy_counts_as_well),
    "norms under sequence parallelism": (Cell("ddp", 0, tp=2, also=(SEQUENCE,)), naive.norms_see_their_positions_only),
    "dropout under sequence parallelism": (
        Cell("ddp", 0, tp=2, also=(SEQUENCE, LLAMA)),
        naive.dropout_begins_at_0_everywhere,
    ),
    "gradients of replicas": (Cell("native", 0, dp=2), naive.replicas_stay_apart),
    "stage 3 with a split backward pass": (
        Cell("native", 3, dp=2, pp=2, schedule="DualPipeV"),
        naive.stage_3_may_split_the_backward_pass,
    ),
}


@pytest.mark.parametrize(("cell", "prepare"), CASES.values(), ids=CASES.keys())
def test_the_naive_code_is_seen(cell: Cell, prepare: Prepare) -> None:
    result = check(cell, prepare=prepare)
    assert not result.passed
    if result.gaps is not None and result.bounds is not None:
        print(f"{cell.name}: loss {result.gaps.loss:.1e}, norm {result.gaps.norm:.1e}: {prepare.__doc__}")
    else:
        assert "gradient" in result.problem or "None" in result.problem, result.problem
