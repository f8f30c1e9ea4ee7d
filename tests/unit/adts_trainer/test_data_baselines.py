"""Count models: the interpolation formula on a case worked by hand, and that they are distributions."""

import math

import numpy as np
import pytest

from adts_trainer.data import baselines
from adts_trainer.data.baselines import cross_entropies
from adts_trainer.errors import DataError


def slow_probability(train: list[int], history: list[int], token: int, vocabulary: int) -> float:
    """Witten-Bell by counting, one token at a time."""
    probability = 1.0 / vocabulary
    for order in range(len(history) + 1):
        context = history[len(history) - order :]
        followers = [train[i + order] for i in range(len(train) - order) if train[i : i + order] == context]
        if followers:
            distinct = len(set(followers))
            probability = (followers.count(token) + distinct * probability) / (len(followers) + distinct)
    return probability


def test_equals_counting_one_token_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_CHUNK", 7)  # many chunks, none of them aligned
    draw = np.random.default_rng(0)
    train, held_out = draw.integers(0, 4, 60).tolist(), draw.integers(0, 5, 30).tolist()
    result = cross_entropies(np.array(train, dtype=np.uint8), np.array(held_out, dtype=np.uint8), 5)
    for order, name in enumerate(["unigram", "bigram", "trigram"]):
        expected = [
            -math.log(slow_probability(train, held_out[i - order : i], held_out[i], 5)) for i in range(2, len(held_out))
        ]
        assert result[name] == pytest.approx(np.mean(expected), rel=1e-12), name


def test_longer_contexts_help_on_text_that_repeats() -> None:
    text = np.frombuffer(b"the cat sat on the mat and the rat sat on the cat " * 50, dtype=np.uint8)
    result = cross_entropies(text[:2000], text[2000:], 256)
    assert result["unigram"] > 2.0 > result["bigram"] > result["trigram"] > 0.0


@pytest.mark.parametrize(
    ("tokens", "vocabulary", "message"),
    [(10, 50257, "a vocabulary of 50257 is too large.*--tokenizer bytes"), (2, 256, "need at least three")],
    ids=["large vocabulary", "short text"],
)
def test_what_cannot_be_counted_is_refused(tokens: int, vocabulary: int, message: str) -> None:
    ids = np.zeros(tokens, dtype=np.uint16)
    with pytest.raises(DataError, match=message):
        cross_entropies(ids, ids, vocabulary)
