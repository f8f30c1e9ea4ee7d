"""A fully connected network: hidden layers of one width with GELU between, then a linear output."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adts_api.training import Model
from adts_trainer.models.dropout import KeyedDropout


class Layer(nn.Module):
    """gelu(linear(x)), then dropout."""

    def __init__(self, inputs: int, outputs: int, dropout: float, site: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.dropout = KeyedDropout(dropout, site, outputs)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """x [B, inputs], dropout keys int64 [B] -> [B, outputs]."""
        return self.dropout(F.gelu(self.linear(x)), keys)


class MLP(nn.Module):
    """Vectors to class scores or values."""

    takes_dropout_keys = True

    def __init__(self, spec: Model, input_size: int, output_size: int) -> None:
        super().__init__()
        widths = [input_size] + [spec.hidden_size] * spec.layers
        self.layers = nn.ModuleList(Layer(a, b, spec.dropout, i) for i, (a, b) in enumerate(pairwise(widths)))
        self.output = nn.Linear(spec.hidden_size, output_size)

    def forward(self, inputs: Tensor, keys: Tensor) -> Tensor:
        """Inputs [B, F], dropout keys int64 [B] -> [B, O]."""
        x = inputs
        for layer in self.layers:
            x = layer(x, keys)
        return self.output(x)

    def tensor_plan(self) -> dict[str, str]:
        """How its matrices are cut over tensor-parallel ranks (parallel/tensor.py): by columns and rows in turns."""
        plan: dict[str, str] = {}
        for number in range(len(self.layers)):
            if number % 2:
                plan[f"layers.{number}.linear"] = "row"
            else:
                plan |= {f"layers.{number}.linear": "enter column", f"layers.{number}.dropout": "features"}
        return plan | ({"output": "row"} if len(self.layers) % 2 else {})

    def initial_mean_std(self, name: str, shape: torch.Size) -> tuple[float, float]:
        """Normal distribution of a parameter's initial values: He's (1502.01852), the output without its gain of 2."""
        if name.endswith("bias"):
            return 0.0, 0.0
        return 0.0, math.sqrt((1.0 if name.startswith("output") else 2.0) / shape[-1])
