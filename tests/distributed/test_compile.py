"""torch.compile changes the speed and not the training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from support.ranks import run_job, spec

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler on PATH"),
]


@pytest.mark.parametrize(
    "changes",
    [{}, {"zero": {"stage": 3}, "training": {"activationCheckpointing": "full"}, "parallelism": {"microbatches": 2}}],
    ids=["ddp", "stage 3, recomputed"],
)
def test_a_compiled_run_follows_the_eager_one(changes: dict[str, Any], tmp_path: Path) -> None:
    training = {"steps": 5, **changes.pop("training", {})}
    precision, model = {"dtype": "fp32"}, {"layers": 2}
    eager = run_job(tmp_path / "eager", 2, spec(training=training, precision=precision, model=model, **changes))
    training = {**training, "compile": True}
    compiled = run_job(
        tmp_path / "compiled", 2, spec(training=training, precision=precision, model=model, **changes), timeout=110
    )
    pairs = zip(eager.expect().series("loss"), compiled.expect().series("loss"), strict=True)
    assert max(abs(a - b) for a, b in pairs) <= 1e-5
