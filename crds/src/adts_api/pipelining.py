"""Which layers a pipeline stage has, and which stages a rank has. Pure integers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

V_SHAPED = frozenset({"ZBVZeroBubble", "DualPipeV"})
"""Schedules whose stages run down the ranks and up again: the first rank has the first and the last stage."""
LOOPED = frozenset({"Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble"})
"""Schedules whose stages go round the ranks twice."""


SPLIT_BACKWARD = frozenset({"InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"})
"""Schedules that compute the gradients of weights later than those of activations."""
ALL_STAGES_BUSY = frozenset({"1F1B", "DualPipeV"})
"""Schedules that need a micro-batch for every stage."""
IN_ROUNDS = frozenset({"Interleaved1F1B", "InterleavedZeroBubble"})
"""Schedules that want equal rounds of about as many micro-batches as there are ranks."""


def stages_per_rank(schedule: str) -> int:
    """Stages that one rank has under a schedule."""
    return 2 if schedule in V_SHAPED | LOOPED else 1


def stage_indices(schedule: str, rank: int, ranks: int) -> list[int]:
    """The stages of a pipeline rank, ascending."""
    if schedule in V_SHAPED:
        return [rank, 2 * ranks - 1 - rank]
    return list(range(rank, ranks * stages_per_rank(schedule), ranks))


def rank_of_stage(schedule: str, stage: int, ranks: int) -> int:
    """The pipeline rank that has a stage."""
    if schedule in V_SHAPED and stage >= ranks:
        return 2 * ranks - 1 - stage
    return stage % ranks


def split_layers(layers: Sequence[float], head: float, stages: int) -> list[tuple[int, int]]:
    """(first, last + 1) layer of each stage, so that the most expensive stage costs as little as can be.

    `layers` are the costs of the layers in order; `head` is what the last stage computes besides. Every stage has a
    layer. Raises ValueError where there are fewer layers than stages.
    """
    if len(layers) < stages:
        raise ValueError(f"{len(layers)} layers are fewer than {stages} stages")

    @cache
    def best(first: int, left: int) -> tuple[float, tuple[int, ...]]:
        """Cost of the worst of the `left` stages that begin at layer `first`, and where each ends."""
        if left == 1:
            return sum(layers[first:]) + head, (len(layers),)
        candidates = []
        for end in range(first + 1, len(layers) - left + 2):
            cost, ends = best(end, left - 1)
            candidates.append((max(cost, sum(layers[first:end])), (end, *ends)))
        return min(candidates)

    ends = best(0, stages)[1]
    return list(zip((0, *ends[:-1]), ends, strict=True))
