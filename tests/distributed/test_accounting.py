"""The closed form of the wire bytes equals what collectives are given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support.faults import count_collectives
from support.ranks import run_job, spec

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(
    ("world", "changes"),
    [
        (1, {}),
        (2, {}),
        (2, {"parallelism": {"microbatches": 2}}),
        (2, {"zero": {"stage": 2}, "parallelism": {"microbatches": 2}}),
        (3, {"zero": {"stage": 3}, "training": {"globalBatchSize": 12}}),
        (2, {"zero": {"stage": 3}, "training": {"activationCheckpointing": "full"}}),
        (2, {"zero": {"stage": 3}, "precision": {"dtype": "bf16"}}),
        (2, {"zero": {"stage": 2}, "precision": {"dtype": "fp32", "reduceDtype": "bf16"}}),
    ],
    ids=[
        "alone",
        "ddp",
        "ddp in 2 parts",
        "stage 2 in 2 parts",
        "stage 3 on 3",
        "stage 3 recomputed",
        "stage 3 bf16",
        "bf16 on the wire",
    ],
)
def test_wire_bytes_are_what_collectives_get(world: int, changes: dict[str, Any], tmp_path: Path) -> None:
    changes = {"precision": {"dtype": "fp32"}, **changes}
    changes["training"] = {"steps": 3, **changes.get("training", {})}
    run = run_job(tmp_path, world, spec(**changes), prepare=count_collectives).expect()
    counted = {int(number) for number in re.findall(r"counted (\d+)", run.output)}
    assert counted == {run.heartbeats[0].wire_bytes_per_step}
    assert (max(counted) > 0) == (world > 1)
