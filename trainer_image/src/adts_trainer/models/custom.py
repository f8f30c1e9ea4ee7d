"""Models that are not ours: the user's factory."""

from __future__ import annotations

import torch
from torch import nn

from adts_api.training import Model
from adts_trainer.errors import UserCodeError
from adts_trainer.user_code import find_callable

_FIELD = "spec.model.factory"


def build_custom(spec: Model, seed: int) -> nn.Module:
    """What the factory `package.module:callable` returns for `spec.model.arguments`, with torch seeded by `seed`.

    Raises UserCodeError where the factory cannot be found, raises, or returns no nn.Module.
    """
    factory = find_callable(spec.factory, _FIELD)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = factory(**spec.arguments)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            call = f"{spec.factory}({', '.join(f'{k}={v!r}' for k, v in spec.arguments.items())})"
            raise UserCodeError(f"{_FIELD}: {call} raised {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UserCodeError(
            f"{_FIELD}: {spec.factory} returned {type(module).__name__}; it must return a torch.nn.Module"
        )
    return module
