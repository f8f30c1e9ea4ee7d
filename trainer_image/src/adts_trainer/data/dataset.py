"""What every kind of data set offers to the loop."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from adts_trainer.batch import Batch, DataFacts


class Dataset(Protocol):
    """Samples by id; reading one twice gives the same tensors."""

    facts: DataFacts
    tokens_per_sample: int
    """Targets of one sample; 1 for classification and regression."""

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, ids: np.ndarray, keys: np.ndarray) -> Batch:
        """The samples with these ids (int64 [B]) and their dropout keys (int64 [B]), on the CPU."""
