"""Runs cells one after the other: their ranks share the cores of one machine."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from rich.console import Console

from adts_trainer.errors import DeviceMissingError
from adts_trainer.selfcheck.cells import Cell
from adts_trainer.selfcheck.compare import check
from adts_trainer.selfcheck.report import Report, Screen


def run_matrix(cells: Sequence[Cell], device: str, console: Console) -> Report:
    """Run and compare every cell for which there are devices. Raises DeviceMissingError where there are for none."""
    begin = time.monotonic()
    found = torch.cuda.device_count() if device == "cuda" else max(cell.world for cell in cells)
    possible = [cell for cell in cells if cell.world <= found]
    if not possible:
        raise DeviceMissingError(
            f"--device: cuda has {found} devices, and no chosen cell runs on fewer than "
            f"{min(cell.world for cell in cells)}; use --device cpu"
        )
    results = []
    with Screen(console, len(possible)) as screen:
        for cell in possible:
            screen.begin(cell)
            results.append(check(cell, device))
            screen.end(results[-1])
    left_out = [cell for cell in cells if cell not in possible]
    return Report(results, left_out, device, time.monotonic() - begin)
