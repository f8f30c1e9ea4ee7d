"""`adts render` prints the whole desired set; a change of it is read as a diff of tests/golden/operator."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from adts_operator.commands.render import render

CASES = sorted((Path(__file__).parents[2] / "golden" / "operator").iterdir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_render(case: Path) -> None:
    result = CliRunner().invoke(render, [str(case / "training.yaml")], catch_exceptions=False)
    expected = case / "expected.yaml"
    assert result.output == expected.read_text(), (
        f"if the change is meant: adts render {case / 'training.yaml'} > {expected}"
    )
