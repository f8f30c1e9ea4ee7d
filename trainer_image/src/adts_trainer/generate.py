"""Text from a language model, one token at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from adts_trainer.batch import Batch
from adts_trainer.model import forward


@torch.no_grad()
def generate(
    module: nn.Module,
    prompt: list[int],
    count: int,
    *,
    context: int,
    temperature: float,
    top_k: int,
    vocabulary: int,
    seed: int,
) -> Iterator[int]:
    """`count` token ids that follow `prompt` (at least one id), each seen with at most `context` tokens before it.

    Temperature 0 takes the likeliest id; `top_k` 0 draws from all; ids at or above `vocabulary` are never drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt)
    keys = torch.zeros(1, dtype=torch.int64)
    for _ in range(count):
        window = torch.tensor([ids[-context:]])
        logits = forward(module, Batch(window, window, keys))[0, -1, :vocabulary].double()
        ids.append(_draw(logits, temperature, top_k, generator))
        yield ids[-1]


def _draw(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    return int(torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator))
