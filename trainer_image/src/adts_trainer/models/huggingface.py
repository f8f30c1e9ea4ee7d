"""Causal language models of the transformers library from a local folder; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from adts_api.errors import ConfigError
from adts_api.training import Model
from adts_trainer.errors import DataError


def build_huggingface(spec: Model, seed: int, dtype: torch.dtype) -> nn.Module:
    """The causal LM of the folder `spec.model.path`, pretrained or with fresh weights from `seed`.

    Dropout inside it is the library's own and not keyed by sample. Raises ConfigError where transformers is missing,
    the folder has no config.json, or the library refuses it; DataError where its weights cannot be read.
    """
    folder = Path(spec.path)
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "spec.model.type: huggingface needs transformers; run: pip install 'adts-trainer[huggingface]'"
        ) from error
    if not folder.is_dir():
        raise ConfigError(
            f"spec.model.path: {spec.path or repr('')}: no such folder; name a local folder with config.json"
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(f"spec.model.path: {folder}: has no config.json; save the model there with save_pretrained")
    try:
        config: Any = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if not spec.pretrained:
                config.use_cache = False
                return transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    except (ValueError, OSError, KeyError, AttributeError) as error:
        raise ConfigError(f"spec.model.path: {folder}: is no causal language model: {_first_line(error)}") from error
    return _pretrained(transformers, folder, dtype)


def _pretrained(transformers: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    if not any(folder.glob("*.safetensors")):
        raise DataError(
            f"spec.model.path: {folder}: has no *.safetensors; add the weights or set spec.model.pretrained to false"
        )
    try:
        module = transformers.AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True, dtype=dtype)
    except Exception as error:  # the library raises many kinds, safetensors' own among them
        raise DataError(f"spec.model.path: {folder}: cannot load its weights: {_first_line(error)}") from error
    module.config.use_cache = False
    return module.train()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
