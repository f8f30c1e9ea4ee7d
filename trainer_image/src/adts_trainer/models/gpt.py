"""A decoder-only transformer in the shape of GPT-2 or of Llama.

Shapes: B samples, T positions, H hidden size, N heads, K key-value heads, D = H / N, V vocabulary.
Every projection is its own Linear (q, k, v, o, gate, up, down), so that tensor parallelism can cut each by rows or
columns; head counts are read off the projections' outputs, which shrink under it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adts_api.training import Model
from adts_trainer.models.dropout import KeyedDropout

_STD = 0.02


def intermediate_size(spec: Model) -> int:
    """Width inside the feed-forward: the spec's, or 4 H (gpt2), or 8/3 H rounded up to a multiple of 64 (llama)."""
    if spec.intermediate_size:
        return spec.intermediate_size
    return 4 * spec.hidden_size if spec.shape == "gpt2" else -(-8 * spec.hidden_size // (3 * 64)) * 64


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-5) * weight over the last dimension (1910.07467)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


def _norm(spec: Model) -> nn.Module:
    return nn.LayerNorm(spec.hidden_size) if spec.shape == "gpt2" else RMSNorm(spec.hidden_size)


def rotate(x: Tensor, theta: float) -> Tensor:
    """Rotary position embedding (2104.09864) of x [B, T, heads, D], halves rotated as in Llama, in fp32 or better.

    Angles are computed from T alone: no table to keep, none to lose when the model is materialised.
    """
    T, D = x.shape[1], x.shape[3]
    precise = torch.promote_types(x.dtype, torch.float32)
    frequencies = theta ** (torch.arange(0, D, 2, device=x.device, dtype=precise) / -D)
    angles = torch.arange(T, device=x.device, dtype=precise)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    cos, sin = torch.cat((cos, cos), dim=-1)[:, None], torch.cat((-sin, sin), dim=-1)[:, None]
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention; several query heads may share one key-value head (2305.13245)."""

    def __init__(self, spec: Model) -> None:
        super().__init__()
        biases = spec.shape == "gpt2"
        self._head_size = spec.hidden_size // spec.heads
        self._theta = spec.rope_theta if spec.shape == "llama" else None
        key_value = (spec.key_value_heads or spec.heads) * self._head_size
        self.q = nn.Linear(spec.hidden_size, spec.hidden_size, bias=biases)
        self.k = nn.Linear(spec.hidden_size, key_value, bias=biases)
        self.v = nn.Linear(spec.hidden_size, key_value, bias=biases)
        self.o = nn.Linear(spec.hidden_size, spec.hidden_size, bias=biases)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H] -> [B, T, H]."""
        B, T, _ = x.shape
        q, k, v = (p(x).view(B, T, -1, self._head_size) for p in (self.q, self.k, self.v))
        if self._theta is not None:
            q, k = rotate(q, self._theta), rotate(k, self._theta)
        grouped = q.shape[2] != k.shape[2]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return self.o(y.transpose(1, 2).reshape(B, T, -1))


class FeedForward(nn.Module):
    """gpt2: down(gelu(up(x))); llama: down(silu(gate(x)) * up(x)) (2002.05202)."""

    def __init__(self, spec: Model) -> None:
        super().__init__()
        biases, inner = spec.shape == "gpt2", intermediate_size(spec)
        self.gate = nn.Linear(spec.hidden_size, inner, bias=False) if spec.shape == "llama" else None
        self.up = nn.Linear(spec.hidden_size, inner, bias=biases)
        self.down = nn.Linear(inner, spec.hidden_size, bias=biases)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H] -> [B, T, H]."""
        if self.gate is None:
            return self.down(F.gelu(self.up(x)))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, spec: Model, layer: int) -> None:
        super().__init__()
        self.attention_dropout = KeyedDropout(spec.dropout, 2 * layer + 1, spec.hidden_size)
        self.feed_forward_dropout = KeyedDropout(spec.dropout, 2 * layer + 2, spec.hidden_size)
        self.attention_norm, self.attention = _norm(spec), Attention(spec)
        self.feed_forward_norm, self.feed_forward = _norm(spec), FeedForward(spec)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """x [B, T, H], dropout keys int64 [B] -> [B, T, H]."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x)), keys)
        return x + self.feed_forward_dropout(self.feed_forward(self.feed_forward_norm(x)), keys)


class Elsewhere(nn.Module):
    """In the place of a layer that another pipeline stage has."""

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """x."""
        return x


class GPT(nn.Module):
    """Token ids to logits, or one pipeline stage of it: activations in, activations out."""

    takes_dropout_keys = True

    def __init__(self, spec: Model, vocabulary_size: int, sequence_length: int) -> None:
        """`sequence_length` is the number of learned positions (gpt2)."""
        super().__init__()
        self._tied = spec.tie_embeddings
        self._residual_std = _STD / math.sqrt(2 * spec.layers)
        self.token_embedding: nn.Module | None = nn.Embedding(vocabulary_size, spec.hidden_size)
        learned = spec.shape == "gpt2"
        self.position_embedding: nn.Module | None = nn.Embedding(sequence_length, spec.hidden_size) if learned else None
        self.dropout = KeyedDropout(spec.dropout, 0, spec.hidden_size)
        self.layers = nn.ModuleList(Block(spec, layer) for layer in range(spec.layers))
        self.final_norm: nn.Module | None = _norm(spec)
        self.head: nn.Module | None = nn.Linear(spec.hidden_size, vocabulary_size, bias=False)
        self.tie()

    def forward(self, inputs: Tensor, keys: Tensor) -> Tensor:
        """Ids int64 [B, T], dropout keys int64 [B] -> logits [B, T, V]. A later stage takes activations [B, T, H], an
        earlier one gives them."""
        x = inputs if self.token_embedding is None else self._embed(inputs, keys)
        for layer in self.layers:
            x = layer(x, keys)
        return x if self.head is None or self.final_norm is None else self.head(self.final_norm(x))

    def _embed(self, ids: Tensor, keys: Tensor) -> Tensor:
        assert self.token_embedding is not None
        x = self.token_embedding(ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(torch.arange(ids.shape[1], device=ids.device))
        return self.dropout(x, keys)

    def tie(self) -> None:
        """Make the output matrix the token embedding itself, if the spec says so and both are here."""
        if self._tied and self.head is not None and self.token_embedding is not None:
            self.head.weight = self.token_embedding.weight

    def keep(self, first: int, last: int) -> None:
        """Become the pipeline stage of layers first to last - 1: the first has the embeddings, the last the head."""
        for number in range(len(self.layers)):
            if not first <= number < last:
                self.layers[number] = Elsewhere()
        if first > 0:
            self.token_embedding = self.position_embedding = None
        if last < len(self.layers):
            self.final_norm = self.head = None

    @property
    def aliases(self) -> dict[str, str]:
        """Own name -> name in the whole model, of the output matrix that is a second copy of the embedding."""
        is_copy = self._tied and self.head is not None and self.token_embedding is None
        return {"head.weight": "token_embedding.weight"} if is_copy else {}

    def tensor_plan(self) -> dict[str, str]:
        """How its matrices are cut over tensor-parallel ranks (parallel/tensor.py)."""
        return {
            "token_embedding": "vocabulary",
            "position_embedding": "positions",
            "dropout": "dropout",
            "layers.*.attention_dropout": "dropout",
            "layers.*.feed_forward_dropout": "dropout",
            "layers.*.attention": "enter",
            **{f"layers.*.attention.{name}": "column" for name in "qkv"},
            "layers.*.attention.o": "row",
            "layers.*.feed_forward": "enter",
            "layers.*.feed_forward.gate": "column",
            "layers.*.feed_forward.up": "column",
            "layers.*.feed_forward.down": "row",
            "head": "enter column logits",
        }

    def _apply(self, fn: Any, recurse: bool = True) -> GPT:
        """Moving parameters (`to_empty`, `to`) makes new ones; the tie must survive it."""
        super()._apply(fn, recurse)
        self.tie()
        return self

    def initial_mean_std(self, name: str, shape: torch.Size) -> tuple[float, float]:
        """Normal distribution of a parameter's initial values: GPT-2's, residual projections by 1 / sqrt(2 layers)."""
        if name.endswith("norm.weight"):
            return 1.0, 0.0
        if name.endswith("bias"):
            return 0.0, 0.0
        return 0.0, self._residual_std if name.endswith(("attention.o.weight", "feed_forward.down.weight")) else _STD
