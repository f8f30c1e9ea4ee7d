"""Watches a compressed training from inside: what went into every bucket, what came out, what is still owed."""

from __future__ import annotations

import os
import re
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

from adts_trainer.context import RankContext
from adts_trainer.selfcheck.runner import Finished


def count_sums(context: RankContext) -> None:
    """Print for every rank how far Σ of gradients is from Σ of what was applied and what is owed, relative to the
    first, and a hash of the rank's weights, after the last step.

    Gradients are those of the steps that were taken, as they were before compression. A step that is dropped must leave
    what is owed as it was, bit by bit.
    """
    import hashlib

    import torch
    import torch.distributed as dist

    from adts_trainer.communication.bucket import Bucket
    from adts_trainer.communication.bucket_layout import local
    from adts_trainer.communication.reducer import Reducer
    from adts_trainer.session import Session

    reduce, commit, drop, finish = Bucket.reduce, Reducer.commit, Reducer.drop, Session.finish
    pending: list[tuple[dict[str, Any], dict[str, Any]]] = []
    committed: list[Any] = []
    given: dict[str, Any] = {}
    applied: dict[str, Any] = {}

    def gradients(bucket: Bucket, factor: float) -> dict[str, Any]:
        return {
            it.piece.name: it.of(local(it.parameter.grad)).detach().double() * factor
            for it in bucket.rows
            if it.parameter.grad is not None
        }

    def owed(reducer: Reducer) -> list[Any]:
        channels = [bucket.channel for bucket in reducer.buckets if bucket.channel is not None]
        return [it for channel in channels for it in (channel.residual, channel.owner_residual) if it is not None]

    def watched_reduce(self: Bucket, step: int, unit: Any) -> None:
        before = gradients(self, unit())
        reduce(self, step, unit)
        pending.append((before, gradients(self, unit())))

    def watched_commit(self: Reducer) -> None:
        for before, after in pending:
            for sums, values in ((given, before), (applied, after)):
                for name, value in values.items():
                    sums[name] = sums[name] + value if name in sums else value
        commit(self)
        pending.clear()
        committed.clear()
        committed.extend(it.clone() for it in owed(self))

    def watched_drop(self: Reducer) -> None:
        pending.clear()
        drop(self)
        now = owed(self)
        assert all(torch.equal(before, it) for before, it in zip(committed, now, strict=bool(committed)))

    def watched_finish(self: Session) -> None:
        reducer = self.step._model.exchange
        assert reducer is not None
        own, owned = reducer.residuals(), reducer.owner_residuals()
        worst = 0.0
        for bucket in reducer.buckets:
            for it in bucket.rows:
                owed = it.of(own[it.name]).double() + it.of(owned[it.name]).double()
                sums = torch.stack([given[it.piece.name], owed])
                dist.all_reduce(sums, group=reducer.wire.group)
                gap = (sums[0] - sums[1] - applied[it.piece.name]).norm() / sums[0].norm().clamp(min=1e-30)
                worst = max(worst, gap.item())
        digest = hashlib.sha256()
        for _, parameter in self.step._model.parameters:
            digest.update(local(parameter.detach()).contiguous().view(torch.uint8).numpy().tobytes())
        at = self.step._model.coordinates
        where = f"{at.pp}-{at.dp_shard}-{at.tp}"
        # one write, because ranks share the file
        os.write(1, f"sums {worst:.3e} weights {where} {digest.hexdigest()[:16]}\n".encode())
        finish(self)

    Bucket.reduce = watched_reduce  # type: ignore[method-assign]
    Reducer.commit = watched_commit  # type: ignore[method-assign]
    Reducer.drop = watched_drop  # type: ignore[method-assign]
    Session.finish = watched_finish  # type: ignore[method-assign]


def expect_equal_replicas(run: Finished) -> None:
    """Ranks that hold the same part of the model hold the same bits of it."""
    hashes = defaultdict(set)
    for where, digest in re.findall(r"weights (\S+) (\w+)", run.output):
        hashes[where].add(digest)
    assert hashes
    assert all(len(of_a_part) == 1 for of_a_part in hashes.values()), hashes


def with_overflow_on_rank_1(context: RankContext) -> None:
    """`count_sums`, while the gradients of rank 1 overflow in step 3, and nobody else's."""
    count_sums(context)
    import torch

    from adts_trainer.communication.bucket import Bucket

    if context.rank != 1:
        return
    reduce = Bucket.reduce

    def watched(self: Bucket, step: int, unit: Any) -> None:
        if step == 3:
            with torch.no_grad():
                for it in self.rows:
                    if it.parameter.grad is not None:
                        it.parameter.grad.fill_(torch.inf)
        reduce(self, step, unit)

    Bucket.reduce = watched  # type: ignore[method-assign]


def killed_in_a_compressed_step(context: RankContext) -> None:
    """Rank 1 is killed in step 7, when it has sent one bucket of it and not the next."""
    from adts_trainer.communication.bucket import Bucket

    reduce, seen = Bucket.reduce, 0

    def watched(self: Bucket, step: int, unit: Any) -> None:
        nonlocal seen
        seen += step == 7
        if context.rank == 1 and seen == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        reduce(self, step, unit)

    Bucket.reduce = watched  # type: ignore[method-assign]


def say_owed(context: RankContext) -> None:
    """Print a number that depends on all that is owed for all parameters, after every load and before every save."""
    import torch
    import torch.distributed as dist

    from adts_trainer import checkpoint
    from adts_trainer.checkpoint_residuals import load_residuals, residual_regions
    from adts_trainer.parallel.model import ParallelModel

    def owed(model: ParallelModel) -> float:
        """Σ over ranks and parameters of ‖what all replicas owe for it‖², a sum that no cut of a parameter changes."""
        reducer = model.exchange
        assert reducer is not None
        own, owned = reducer.residuals(), reducer.owner_residuals()
        square = torch.zeros((), dtype=torch.float64)
        copies: dict[str, Any] = {}
        for place in model.places:
            value = own[place.own_name] + owned[place.own_name]
            dist.all_reduce(value, group=reducer.wire.group)
            copies[place.own_name] = value
        if model._layout.tied is not None:
            for place in model.places:
                if place.name == "token_embedding.weight":
                    dist.all_reduce(copies[place.own_name], group=model._layout.tied)
        elif any(place.is_copy for place in model.places):
            both = [name for name in copies if name.startswith("token_embedding")]
            total = sum(copies[name] for name in both)
            copies |= dict.fromkeys(both, total)
        for place in model.places:
            if model._counts(place):
                square += copies[place.own_name].double().square().sum()
        dist.all_reduce(square)
        return square.item()

    def save(model: ParallelModel, keep: str) -> Any:
        os.write(1, f"saved {owed(model):.12e}\n".encode())
        return residual_regions(model, keep)

    def load(directory: Path, model: ParallelModel) -> None:
        load_residuals(directory, model)
        os.write(1, f"loaded {owed(model):.12e}\n".encode())

    checkpoint.residual_regions, checkpoint.load_residuals = save, load  # type: ignore[assignment]
