"""Count models to hold a language model against: unigram, bigram and trigram, interpolated after Witten and Bell.

p_n(c | h) = (count(h c) + distinct(h) * p_{n-1}(c | h')) / (count(h) + distinct(h)), h' being h without its first
token, distinct(h) the number of different tokens seen after h, and p_0 uniform ("The zero-frequency problem", 1991).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adts_trainer.errors import DataError

ORDERS = ("unigram", "bigram", "trigram")
LARGEST_VOCABULARY = 1024
_CHUNK = 1 << 22


@dataclass(frozen=True)
class _Counts:
    """Sorted keys that occur, and a number for each."""

    keys: np.ndarray
    values: np.ndarray

    def of(self, keys: np.ndarray) -> np.ndarray:
        """The number of each key, 0 for one that does not occur."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.values[at], 0)


def cross_entropies(train: np.ndarray, held_out: np.ndarray, vocabulary: int) -> dict[str, float]:
    """Nats per token of each count model of `train` on `held_out` (1-D ids), over the tokens with two before them.

    Memory grows with the number of different trigrams, not with the text. Raises DataError for a vocabulary above
    1024, or texts of fewer than three tokens.
    """
    if vocabulary > LARGEST_VOCABULARY:
        raise DataError(
            f"a vocabulary of {vocabulary} is too large for count models; prepare the data with --tokenizer bytes "
            f"(at most {LARGEST_VOCABULARY} ids)"
        )
    if min(len(train), len(held_out)) < 3:
        raise DataError(f"{len(train)} and {len(held_out)} tokens: count models need at least three of each")
    grams = [_count(train, order, vocabulary) for order in (1, 2, 3)]
    contexts = [_contexts(counts, vocabulary) for counts in grams]
    sums = np.zeros(len(ORDERS))
    for start in range(0, len(held_out) - 2, _CHUNK):
        window = held_out[start : start + _CHUNK + 2]
        probability = np.full(len(window) - 2, 1.0 / vocabulary)
        for index, (gram, (total, distinct)) in enumerate(zip(grams, contexts, strict=True)):
            keys = _keys(window, index + 1, vocabulary)[2 - index :]
            d, n = distinct.of(keys // vocabulary), total.of(keys // vocabulary)
            seen = np.maximum(n + d, 1)
            probability = np.where(n > 0, (gram.of(keys) + d * probability) / seen, probability)
            sums[index] -= np.log(probability).sum()
    return dict(zip(ORDERS, (sums / (len(held_out) - 2)).tolist(), strict=True))


def _keys(tokens: np.ndarray, order: int, vocabulary: int) -> np.ndarray:
    """int64: every run of `order` tokens as one number, most recent token last."""
    wide = tokens.astype(np.int64)
    keys = wide[: len(wide) - order + 1]
    for shift in range(1, order):
        keys = keys * vocabulary + wide[shift : len(wide) - order + 1 + shift]
    return keys


def _count(tokens: np.ndarray, order: int, vocabulary: int) -> _Counts:
    """How often each run of `order` tokens occurs."""
    counts = _Counts(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    for start in range(0, len(tokens) - order + 1, _CHUNK):
        keys, values = np.unique(
            _keys(tokens[start : start + _CHUNK + order - 1], order, vocabulary), return_counts=True
        )
        counts = _sum_by_key(np.concatenate([counts.keys, keys]), np.concatenate([counts.values, values]))
    return counts


def _sum_by_key(keys: np.ndarray, values: np.ndarray) -> _Counts:
    unique, inverse = np.unique(keys, return_inverse=True)
    return _Counts(unique, np.bincount(inverse, weights=values, minlength=len(unique)).astype(np.int64))


def _contexts(counts: _Counts, vocabulary: int) -> tuple[_Counts, _Counts]:
    """(tokens seen, different tokens seen) after each context."""
    contexts = counts.keys // vocabulary
    return _sum_by_key(contexts, counts.values), _sum_by_key(contexts, np.ones_like(contexts))
