"""A model of your own, as small as it gets: the next token depends on the current one only."""

from torch import Tensor, nn


class Bigram(nn.Module):
    """Token ids [B, T] to logits [B, T, V]."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


def build(vocabulary: int, width: int) -> nn.Module:
    """What `spec.model.factory` names; called with `spec.model.arguments`."""
    return Bigram(vocabulary, width)
