"""How far a job of several processes is from one process, and whether that is near enough."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adts_trainer.context import RankContext
from adts_trainer.errors import CheckpointError
from adts_trainer.selfcheck.cells import UNEVEN, Cell
from adts_trainer.selfcheck.reference import Reference, truth
from adts_trainer.selfcheck.runner import Finished, Place, Prepare, free_port, started
from adts_trainer.selfcheck.uneven import uneven_targets
from adts_trainer.weights import load_weights

EXACT = 1e-12
"""Bound of loss, gradient norm and every parameter in fp64."""
FLOOR = 1e-6
"""Smallest bound of loss and gradient norm in fp32."""
SPLITS = (2, 4, 8)
"""Parts of a batch in the runs of one process that say what another order of addition does in fp32."""
HALF = {"bf16": (2e-3, 5e-2), "fp16": (1e-3, 1.5e-2)}
"""Bounds of loss and gradient norm around the curve of fp32: about twice the largest gap of any cell when they were set
(bf16 7.8e-4 and 2.5e-2, fp16 3.4e-4 and 6.4e-3)."""
TIMEOUT_SECONDS = 100.0


@dataclass(frozen=True)
class Gaps:
    """Largest absolute difference from one process over the steps; of parameters, after the last."""

    loss: float
    """Nats per target."""
    norm: float
    """Of the gradient before clipping."""
    parameters: float | None = None
    """Compared in fp64 only: where the true gradient is zero, AdamW makes steps of rounding errors."""

    def within(self, bounds: Gaps) -> bool:
        """Whether no gap exceeds its bound. A gap that is no number does."""
        pairs = ((self.loss, bounds.loss), (self.norm, bounds.norm), (self.parameters, bounds.parameters))
        return all(bound is None or (gap is not None and gap <= bound) for gap, bound in pairs)


@dataclass(frozen=True)
class Result:
    """What became of a cell."""

    cell: Cell
    seconds: float
    gaps: Gaps | None = None
    bounds: Gaps | None = None
    problem: str = ""
    """Why there is nothing to compare, or what is wrong beside the gaps."""

    @property
    def passed(self) -> bool:
        return not self.problem and self.gaps is not None and self.bounds is not None and self.gaps.within(self.bounds)


def check(cell: Cell, device: str = "cpu", prepare: Prepare | None = None) -> Result:
    """Run a cell and compare it. `prepare` runs in each rank first and must be importable there."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="adts-selfcheck-") as folder:
        steps: list[Prepare] = [uneven_targets] if UNEVEN in cell.also else []
        steps += [prepare] if prepare is not None else []
        every = functools.partial(_prepare, steps)
        place = Place(Path(folder), free_port())
        with started(place, cell.world, cell.spec(device), prepare=every, device=device) as running:
            run = running.wait(TIMEOUT_SECONDS)
        seconds = time.monotonic() - begin
        if run.problem:
            late = f"still ran after {TIMEOUT_SECONDS:g} s; " if seconds >= TIMEOUT_SECONDS else ""
            return Result(cell, seconds, problem=late + run.problem)
        return judge(cell, run, seconds)


def judge(cell: Cell, run: Finished, seconds: float) -> Result:
    """A finished run beside the truth."""
    spec, uneven = cell.spec(), UNEVEN in cell.also
    dtype = torch.float64 if cell.precision == "fp64" else torch.float32
    expected = truth(spec, uneven=uneven, dtype=dtype)
    if min(expected.norms) <= spec["optimizer"]["clipNorm"]:
        return Result(cell, seconds, problem="one process does not clip at every step: clipping is not tested")
    try:
        gaps = measure(run, expected, with_parameters=cell.precision == "fp64")
    except (ValueError, CheckpointError) as error:
        return Result(cell, seconds, problem=str(error))
    if cell.precision == "fp64":
        return Result(cell, seconds, gaps, Gaps(EXACT, EXACT, EXACT))
    rounding = rounding_bounds(spec, expected, uneven=uneven)
    if cell.precision == "fp32":
        return Result(cell, seconds, gaps, rounding)
    problem = f"is as exact as fp32: {cell.precision} had no effect" if gaps.within(rounding) else ""
    return Result(cell, seconds, gaps, Gaps(*HALF[cell.precision]), problem)


def measure(run: Finished, expected: Reference, *, with_parameters: bool) -> Gaps:
    """The gaps between a run and the truth. Raises ValueError where they have not the same steps or parameters."""
    loss, norm = (run.series(name) for name in ("loss", "gradient_norm"))
    parameters = _parameters(run, expected) if with_parameters else None
    return Gaps(gap(loss, expected.losses), gap(norm, expected.norms), parameters)


def rounding_bounds(spec: dict[str, Any], expected: Reference, *, uneven: bool) -> Gaps:
    """What fp32 may differ by: four times what two runs of one process do that differ in the split of batches only.

    One pair says little: the gap of its norms is 7e-8 or 7e-7, as rounding falls. So it is the largest of a few.
    """
    others = [truth(spec, uneven=uneven, dtype=torch.float32, parts=parts) for parts in SPLITS]
    loss = max(gap(other.losses, expected.losses) for other in others)
    norm = max(gap(other.norms, expected.norms) for other in others)
    return Gaps(max(FLOOR, 4 * loss), max(FLOOR, 4 * norm))


def gap(series: Sequence[float | None], other: Sequence[float]) -> float:
    """Largest difference; NaN where one of them is, which `max` would forget. Raises ValueError for other lengths."""
    if len(series) != len(other):
        raise ValueError(f"{len(series)} steps were logged, not {len(other)}")
    known = np.array([np.nan if value is None else value for value in series])
    return float(np.abs(known - np.array(other)).max())


def _prepare(steps: Sequence[Prepare], context: RankContext) -> None:
    for step in steps:
        step(context)


def _parameters(run: Finished, expected: Reference) -> float:
    weights = load_weights(run.folder / f"{len(expected.losses)}-1")
    if weights.keys() != expected.weights.keys():
        names = ", ".join(sorted(weights.keys() ^ expected.weights.keys()))
        raise ValueError(f"the checkpoint has other parameters than the model: {names}")
    gaps = [(weights[name] - value).abs().max() for name, value in expected.weights.items()]
    return float(torch.stack(gaps).max())
