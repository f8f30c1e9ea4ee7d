"""What can happen to replicas that train apart, and what the obvious code would forget. Importable in ranks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from adts_trainer.context import RankContext
from support.compression_sums import count_sums
from support.faults import count_collectives, slow_steps, uneven_targets

__all__ = [
    "and_no_step_for_rank_1",
    "count_all_traffic",
    "count_sums_of_uneven_targets",
    "forget_the_outer_momentum",
    "infinite_loss_on_rank_1",
    "save_the_optimizer_of_any_replica",
    "say_moments",
    "slow_steps",
]


def count_sums_of_uneven_targets(context: RankContext) -> None:
    """`count_sums`, of samples with different numbers of targets."""
    uneven_targets(context)
    count_sums(context)


def infinite_loss_on_rank_1(context: RankContext) -> None:
    """In step 3 the loss of rank 1 and its gradients are not finite; each rank says what became of the step."""
    import torch

    from adts_trainer.parallel.model import ParallelModel
    from adts_trainer.step import Step

    accumulate, run = ParallelModel.accumulate, Step.run
    count = 0

    def spoiled(self: ParallelModel, share: Any, factor: float) -> Any:
        nonlocal count
        loss, count = accumulate(self, share, factor), count + 1
        if context.rank != 1 or count != 4:
            return loss
        for place in self.places:
            with torch.no_grad():
                place.parameter.grad.fill_(torch.inf)  # type: ignore[union-attr]
        return loss * torch.inf

    def telling(self: Step, state: Any, **arguments: Any) -> Any:
        step, result = state.step, run(self, state, **arguments)
        text = f"rank {context.rank} step {step} {result.verdict.name} scale {self._scaler.scale:g}\n"
        os.write(1, text.encode())
        return result

    ParallelModel.accumulate, Step.run = spoiled, telling  # type: ignore[method-assign]


def and_no_step_for_rank_1(context: RankContext) -> None:
    """`infinite_loss_on_rank_1`, with the sums and hashes of `count_sums`."""
    count_sums(context)
    infinite_loss_on_rank_1(context)


def count_all_traffic(context: RankContext) -> None:
    """`count_collectives`, which sees those of the main thread, and what our own thread sent in each step."""
    from adts_trainer.session import Session

    count_collectives(context)
    run_step = Session.run_step

    def watched(self: Session, stop: bool) -> Any:
        exchange = self.step._model.exchange
        before = exchange.wire.sent if exchange is not None else 0
        result = run_step(self, stop)
        sent = exchange.wire.sent - before if exchange is not None else 0
        os.write(1, f"step {self.state.step} sent {sent}\n".encode())
        return result

    Session.run_step = watched  # type: ignore[method-assign]


def forget_the_outer_momentum(context: RankContext) -> None:
    """A checkpoint has none."""
    from adts_trainer import checkpoint_replicas

    def begin_anew(directory: Path, model: Any) -> None:
        model.outer.restart()

    checkpoint_replicas.load_outer = begin_anew


def save_the_optimizer_of_any_replica(context: RankContext) -> None:
    """As if replicas had the same state: whichever saves it first."""
    from adts_trainer import checkpoint_replicas

    checkpoint_replicas.of_own_replica = lambda regions, model: dict(regions)


def say_moments(context: RankContext) -> None:
    """Print the sum of the norms of AdamW's first moments after a load."""
    from adts_trainer import checkpoint

    load = checkpoint.load_regions

    def watched(directory: Path, model: Any, optimizer: Any) -> None:
        load(directory, model, optimizer)
        total = sum(float(state["exp_avg"].norm()) for state in optimizer.state.values())
        os.write(1, f"moments {total!r}\n".encode())

    checkpoint.load_regions = watched
