"""Held-out loss: every rank takes its part of the samples, the sums are added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from adts_trainer.batch import Batch
from adts_trainer.data.dataset import Dataset
from adts_trainer.distributed_setup import Processes
from adts_trainer.parallel.model import ParallelModel
from adts_trainer.precision import Formats


class Evaluator:
    """Mean loss per valid target over `samples` samples, evenly spaced over a held-out data set."""

    def __init__(
        self,
        dataset: Dataset,
        samples: int,
        batch_size: int,
        model: ParallelModel,
        processes: Processes,
        formats: Formats,
    ) -> None:
        """`samples` 0 takes all. `batch_size` is one rank's, for one forward pass."""
        self._dataset, self._batch_size, self._model = dataset, batch_size, model
        self._samples = min(samples or len(dataset), len(dataset))
        self._processes, self._formats = processes, formats

    def loss(self) -> float:
        """The held-out loss; every rank calls it and gets the same."""
        total = torch.zeros((), dtype=self._formats.master, device=self._processes.device)
        valid = 0
        for batch, count in self._batches():
            total += self._model.evaluate(batch.to(self._processes.device, self._formats.master), count)
            valid += first(batch, count).valid if count else 0
        sums = self._processes.sum_later(total.item(), valid * self._processes.counts_samples)
        loss_sum, valid_sum = sums.wait()
        return loss_sum / max(1.0, valid_sum)

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        """Batches of one size and how many of their samples count: all ranks make the same number of equal forward
        passes, which sharding and compilation want, and a rank that has run out repeats a sample for nothing."""
        ranks, size = self._processes.data_ranks, self._batch_size
        for start in range(0, self._samples, ranks * size):
            numbers = np.arange(start, start + ranks * size)[self._processes.data_rank :: ranks]
            count = int((numbers < self._samples).sum())
            ids = spread(np.minimum(numbers, self._samples - 1), self._samples, len(self._dataset))
            yield self._dataset.batch(ids, np.zeros(size, dtype=np.int64)), count


def spread(numbers: np.ndarray, count: int, size: int) -> np.ndarray:
    """Ids of the `numbers`-th of `count` samples that are evenly spaced over a data set of `size` samples."""
    return numbers * size // count


def first(batch: Batch, count: int) -> Batch:
    """The first samples of a batch."""
    return replace(batch, inputs=batch.inputs[:count], targets=batch.targets[:count], keys=batch.keys[:count])
