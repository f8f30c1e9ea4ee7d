"""Models that are not ours: the user's factory."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from adts_api.training import Model
from adts_trainer.errors import UserCodeError

_FIELD = "spec.model.factory"


def build_custom(spec: Model, seed: int) -> nn.Module:
    """What the factory `package.module:callable` returns for `spec.model.arguments`, with torch seeded by `seed`.

    Raises UserCodeError where the factory cannot be found, raises, or returns no nn.Module.
    """
    factory = _find(spec.factory)
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


def _find(path: str) -> Any:
    module_name, colon, attribute = path.partition(":")
    if not (module_name and colon and attribute):
        raise UserCodeError(f"{_FIELD}: {path!r} is no import path; write package.module:callable")
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise UserCodeError(
            f"{_FIELD}: importing {module_name} raised {type(error).__name__}: {error}; "
            "the package must be installed in the image or lie on PYTHONPATH"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserCodeError(f"{_FIELD}: {module_name} has no attribute {attribute}; check the name after the colon")
        found = getattr(found, part)
    if not callable(found):
        raise UserCodeError(f"{_FIELD}: {path} is a {type(found).__name__}, not callable; name a function or a class")
    return found
