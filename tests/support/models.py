"""Built-in models for tests of one process."""

import torch
from torch import nn

from adts_trainer.model import initial_parameter


@torch.no_grad()
def materialize(module: nn.Module, device: str, seed: int) -> None:
    """Give a model on the meta device its storage and its initial weights."""
    module.to_empty(device=device)
    for name, parameter in module.named_parameters():
        parameter.copy_(initial_parameter(module, name, parameter.shape, parameter.dtype, seed))
