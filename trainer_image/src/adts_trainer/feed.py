"""What one data rank reads: the samples of its share of each optimizer step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from adts_api.v1alpha1 import Spec
from adts_trainer.batch import Batch
from adts_trainer.data.dataset import Dataset
from adts_trainer.distributed_setup import Processes
from adts_trainer.sampler import dropout_keys, sample_ids


@dataclass(frozen=True)
class Share:
    """This rank's part of one optimizer step."""

    batch: Batch
    """All of it, on the device."""
    micro_batches: list[Batch]
    """Its equal parts."""
    valid: int
    """Targets that carry loss in all of them."""
    digest: int
    """Sum over the samples of a 32-bit hash of (position, sample id): added over the ranks it does not depend on how
    many there are, and so proves which samples a step has seen."""

    def first(self) -> Share:
        """The first micro-batch alone."""
        return replace(self, batch=self.micro_batches[0], micro_batches=self.micro_batches[:1])


class Feed:
    """Reads shares; the next one may be prepared while the device computes."""

    def __init__(self, dataset: Dataset, spec: Spec, processes: Processes, float_dtype: torch.dtype) -> None:
        self._dataset, self._seed, self._shuffle = dataset, spec.training.seed, spec.data.shuffle
        self._samples = spec.training.global_batch_size // processes.data_ranks
        self._first = processes.data_rank * self._samples
        self._parts, self._device, self._dtype = spec.parallelism.microbatches, processes.device, float_dtype
        self.targets_per_step = dataset.tokens_per_sample * spec.training.global_batch_size
        """Targets of one step of the whole job, those included that carry no loss."""
        self._prepared: tuple[int, int] | None = None
        self._share: Share | None = None

    def take(self, step: int, consumed: int) -> Share:
        """The share of a step that begins at global position `consumed`."""
        self.prepare(step, consumed)
        assert self._share is not None
        return self._share

    def prepare(self, step: int, consumed: int) -> None:
        """Read a share ahead of `take`."""
        if self._prepared != (step, consumed):
            self._prepared, self._share = (step, consumed), self._read(step, consumed)

    def _read(self, step: int, consumed: int) -> Share:
        start = consumed + self._first
        ids = sample_ids(self._seed, len(self._dataset), self._shuffle, start, self._samples)
        batch = self._dataset.batch(ids, dropout_keys(self._seed, step, ids))
        on_device = batch.to(self._device, self._dtype)
        return Share(on_device, on_device.split(self._parts), batch.valid, digest(ids, start))


def digest(ids: np.ndarray, start: int) -> int:
    """Sum of a 32-bit hash of (position, id) over ids int64 [B] at positions start, start + 1, ..."""
    positions = np.arange(start, start + len(ids), dtype=np.uint64)
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ positions * np.uint64(0xC2B2AE3D27D4EB4F)
    return int((mixed >> np.uint64(32)).sum())
