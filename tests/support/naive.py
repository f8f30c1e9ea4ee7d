"""Obvious code that trains wrongly without an error, put in the place of ours in every rank."""

from __future__ import annotations

from adts_api import pipelining, rules_layout
from adts_trainer.context import RankContext
from adts_trainer.models.gpt import GPT
from adts_trainer.parallel import apply
from adts_trainer.parallel.model import ParallelModel
from adts_trainer.parallel.places import Place


def every_rank_counts_all_it_has(context: RankContext) -> None:
    """A norm over all ranks in which what several of them have alike counts several times."""
    ParallelModel._counts = lambda self, place: True  # type: ignore[method-assign]


def copies_of_the_embedding_stay_apart(context: RankContext) -> None:
    """The first and the last stage each use the gradient of their own copy."""
    ParallelModel._add_up_tied = lambda self: None  # type: ignore[method-assign]


def the_copy_counts_as_well(context: RankContext) -> None:
    """One parameter with two copies counted twice in the norm."""
    counts = ParallelModel._counts

    def both(self: ParallelModel, place: Place) -> bool:
        return place.is_copy or counts(self, place)

    ParallelModel._counts = both  # type: ignore[method-assign]


def norms_see_their_positions_only(context: RankContext) -> None:
    """Sequence parallelism without the sum over the parts of the sequence."""
    apply.summed_by_ranks = lambda module, ranks: set()


def replicas_stay_apart(context: RankContext) -> None:
    """FSDP2 sums over the shards only, and nobody over the replicas."""
    apply.Reducer = lambda *arguments, **options: None  # type: ignore[assignment,misc]


def stage_3_may_split_the_backward_pass(context: RankContext) -> None:
    """The rule that refuses ZeRO-3 under schedules that compute the gradients of weights later."""
    rules_layout.SPLIT_BACKWARD = pipelining.SPLIT_BACKWARD = frozenset()


def dropout_begins_at_0_everywhere(context: RankContext) -> None:
    """Every part of a sequence drops what the first part drops."""
    plan = GPT.tensor_plan
    GPT.tensor_plan = lambda self: {  # type: ignore[method-assign]
        name: words for name, words in plan(self).items() if words != "dropout"
    }
