"""Samples with different numbers of targets: only then does a mean over ranks differ from the mean over targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from adts_trainer import session
from adts_trainer.batch import IGNORED_TARGET, Batch
from adts_trainer.context import RankContext
from adts_trainer.data.dataset import Dataset


class UnevenTargets:
    """A data set whose sample `id` carries no loss in its first 2 (id mod 7) positions."""

    def __init__(self, inner: Dataset) -> None:
        self._inner = inner
        self.facts, self.tokens_per_sample = inner.facts, inner.tokens_per_sample

    def __len__(self) -> int:
        return len(self._inner)

    def batch(self, ids: np.ndarray, keys: np.ndarray) -> Batch:
        """Inputs and targets int64 [B, T] of the samples `ids` [B]."""
        batch = self._inner.batch(ids, keys)
        targets = batch.targets.clone()
        for row, number in enumerate(ids):
            targets[row, : 2 * (int(number) % 7)] = IGNORED_TARGET
        return replace(batch, targets=targets)


def uneven_targets(context: RankContext) -> None:
    """Let this rank train on such samples; no type of data has them yet."""
    original = session.open_dataset  # type: ignore[attr-defined]
    session.open_dataset = lambda *args, **kwargs: UnevenTargets(original(*args, **kwargs))  # type: ignore[attr-defined]
