"""Data made up on the fly: every sample is a function of (seed, name, id), learnable, and needs no file."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from adts_trainer.batch import Batch, DataFacts

SAMPLES = 1 << 16
_STRIDES = 4
_NOISE = 0.05


def _generator(*parts: object) -> np.random.Generator:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


class SyntheticTokens:
    """Arithmetic progressions modulo the vocabulary, strides 1 to 4, each token replaced with probability 0.05."""

    def __init__(self, seed: int, name: str, sequence_length: int, vocabulary_size: int) -> None:
        """`name` separates training from held-out samples."""
        self._seed, self._name, self._T = seed, name, sequence_length
        self.facts = DataFacts("tokens", vocabulary_size=vocabulary_size)
        self.tokens_per_sample = sequence_length

    def __len__(self) -> int:
        return SAMPLES

    def batch(self, ids: np.ndarray, keys: np.ndarray) -> Batch:
        """int64 inputs and targets [B, T]."""
        rows = torch.from_numpy(np.stack([self._sequence(sample) for sample in ids.tolist()]))
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), torch.from_numpy(keys))

    def _sequence(self, sample: int) -> np.ndarray:
        draw, V, T = _generator(self._seed, self._name, sample), self.facts.vocabulary_size, self._T
        tokens = (draw.integers(V) + draw.integers(1, _STRIDES + 1) * np.arange(T + 1, dtype=np.int64)) % V
        noisy = draw.random(T + 1) < _NOISE
        return np.where(noisy, draw.integers(V, size=T + 1), tokens)


class SyntheticVectors:
    """Gaussian inputs whose class is the largest output of a fixed random two-layer teacher."""

    def __init__(self, seed: int, name: str, input_size: int, output_size: int) -> None:
        """The teacher is a function of the seed alone, so held-out samples follow the same rule."""
        self._seed, self._name = seed, name
        self.facts = DataFacts("classification", input_size=input_size, output_size=output_size)
        self.tokens_per_sample = 1
        draw = _generator(seed, "teacher")
        self._first = draw.standard_normal((input_size, 64)) / np.sqrt(input_size)
        self._second = draw.standard_normal((64, output_size)) / 8.0

    def __len__(self) -> int:
        return SAMPLES

    def batch(self, ids: np.ndarray, keys: np.ndarray) -> Batch:
        """float64 inputs [B, F], int64 targets [B]."""
        F = self.facts.input_size
        inputs = np.stack([_generator(self._seed, self._name, sample).standard_normal(F) for sample in ids.tolist()])
        targets = np.argmax(np.tanh(inputs @ self._first) @ self._second, axis=1)
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(keys))
