"""What the matrix must have: a cell for every engine, stage, degree, schedule, precision and offload that validation
lets pass. What it refuses, it refuses with a reason."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator

from adts_api import cells as api
from adts_api.errors import FieldError, ManifestError
from adts_api.validate import parse
from adts_trainer.selfcheck.cells import SCHEDULES, VARIANTS, Cell, manifest, schedules_of_eight

OFFLOADS = tuple(name for name, changes in VARIANTS.items() if "offload" in changes.get("zero", {}))


def refusals(cell: Cell) -> list[FieldError]:
    """Why validation does not let a cell run; empty if it does."""
    try:
        parse(manifest(cell.spec()))
    except ManifestError as error:
        return list(error.errors)
    return []


def missing(cells: Iterable[Cell]) -> list[Cell]:
    """Combinations that are neither refused nor among the cells."""
    cells = list(cells)
    absent = [
        wanted
        for key, combinations in ((_layout, layouts()), (_precision, precisions()), (_offload, offloads()))
        for wanted in _absent(key, combinations, cells)
        if not refusals(wanted)
    ]
    return list(dict.fromkeys(absent))


def layouts() -> Iterator[Cell]:
    """Every engine at every stage on two data ranks, without and with tensor parallelism, and with each pipeline
    schedule; with shards on eight ranks only with some of them."""
    for row in api.CELLS:
        precision = _most_exact(row)
        for tp in (1, 2):
            yield Cell(row.engine, row.stage, dp=2, tp=tp, precision=precision)
            for name in SCHEDULES if tp == 1 or row.stage == 0 else schedules_of_eight(row.stage):
                yield Cell(row.engine, row.stage, dp=2, tp=tp, pp=2, schedule=name, precision=precision)


def precisions() -> Iterator[Cell]:
    """Every engine at every stage in every format."""
    return (Cell(row.engine, row.stage, dp=2, precision=name) for row in api.CELLS for name in api.PRECISIONS)


def offloads() -> Iterator[Cell]:
    """Every engine at every stage with what may be kept elsewhere."""
    for row in api.CELLS:
        for name in OFFLOADS:
            yield Cell(row.engine, row.stage, dp=2, precision=_most_exact(row), also=(name,))


def _absent(key: Callable[[Cell], Hashable], wanted: Iterable[Cell], cells: list[Cell]) -> Iterator[Cell]:
    present = {key(cell) for cell in cells}
    return (cell for cell in wanted if key(cell) not in present)


def _layout(cell: Cell) -> Hashable:
    return cell.engine, cell.stage, cell.tp > 1, cell.pp > 1, cell.schedule


def _precision(cell: Cell) -> Hashable:
    return cell.engine, cell.stage, cell.precision


def _offload(cell: Cell) -> Hashable:
    return cell.engine, cell.stage, frozenset(cell.also) & frozenset(OFFLOADS)


def _most_exact(row: api.Cell) -> str:
    """A format that does not hide the layout behind a refusal of its own."""
    return "fp64" if "fp64" in row.precisions or not row.precisions else row.precisions[0]
