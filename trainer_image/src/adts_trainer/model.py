"""From `spec.model` to a module: the registry, the initial weights and the one way to call a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adts_api.errors import ConfigError
from adts_api.training import Data, Model
from adts_trainer.batch import Batch, DataFacts
from adts_trainer.errors import UserCodeError
from adts_trainer.models.custom import build_custom
from adts_trainer.models.gpt import GPT
from adts_trainer.models.huggingface import build_huggingface
from adts_trainer.models.loss import VocabularyPart, cross_entropy_sum, squared_error_sum
from adts_trainer.models.mlp import MLP

Loss = Callable[[Tensor, Tensor], Tensor]
_WRAPPERS = frozenset({"module", "_orig_mod", "_checkpoint_wrapped_module"})


@dataclass(frozen=True)
class BuiltModel:
    """A model and what the loop must know about it."""

    module: nn.Module
    layers: list[nn.Module]
    """Repeated blocks in order: units of activation checkpointing, compilation and sharding."""
    loss: Loss
    """(output, targets) -> scalar: sum of losses over the valid targets, fp32 (fp64 for an fp64 output)."""
    flops_per_sample: float
    """Forward and backward of one sample; 0 if unknown."""
    on_meta: bool
    """Parameters have no storage yet: `module.to_empty`, then `initial_parameter` for each."""
    names: frozenset[str]
    """Of every parameter and persistent buffer, a tied one once."""
    size: int
    """Entries of all parameters."""
    vocabulary_size: int = 0
    """gpt only. Token ids; more than the data's where the spec says so."""


def build_model(spec: Model, data: Data, facts: DataFacts, *, seed: int, dtype: torch.dtype) -> BuiltModel:
    """The model of a spec for data of these facts, parameters in `dtype`. Built-in models come on the meta device.

    Raises ConfigError where model and data do not fit, UserCodeError where the user's factory fails.
    """
    loss: Loss = (
        token_loss if facts.task == "tokens" else _class_loss if facts.task == "classification" else _value_loss
    )
    match spec.type:
        case "gpt":
            vocabulary = _vocabulary(spec, facts)
            with torch.device("meta"):
                module: nn.Module = GPT(spec, vocabulary, data.sequence_length).to(dtype)
            flops = _gpt_flops(module, spec, data.sequence_length)
            return BuiltModel(module, list(module.layers), loss, flops, True, *_names_and_size(module), vocabulary)
        case "mlp":
            with torch.device("meta"):
                module = MLP(spec, *_mlp_sizes(spec, facts)).to(dtype)
            return BuiltModel(module, list(module.layers), loss, 6.0 * _size(module), True, *_names_and_size(module))
        case "custom":
            module = build_custom(spec, seed).to(dtype)
            return BuiltModel(module, _largest_list(module), loss, 0.0, False, *_names_and_size(module))
        case "huggingface":
            module = build_huggingface(spec, seed, dtype)
            _require_tokens(spec, facts)
            flops = _huggingface_flops(module, data.sequence_length)
            return BuiltModel(module, _largest_list(module), loss, flops, False, *_names_and_size(module))
        case _:
            raise ConfigError("spec.model.type: is empty; use mlp, gpt, custom or huggingface")


def initial_parameter(module: nn.Module, name: str, shape: torch.Size, dtype: torch.dtype, seed: int) -> Tensor:
    """The full initial value of a built-in model's parameter: a CPU tensor that depends on (seed, name) only.

    Drawn in fp64 and then rounded, so that every dtype starts from the same numbers.
    """
    name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    mean, std = module.initial_mean_std(name, shape)
    if std == 0.0:
        return torch.full(shape, mean, dtype=dtype, device="cpu")
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.empty(shape, dtype=torch.float64, device="cpu").normal_(mean, std, generator=generator).to(dtype)


def forward(module: nn.Module, batch: Batch) -> Tensor:
    """Logits [B, T, V], class scores [B, C] or values [B, O]. Built-in models also get the dropout keys.

    Raises UserCodeError where a foreign model returns neither a tensor nor an object with `logits`.
    """
    inner = module.module if isinstance(module, DistributedDataParallel) else module
    if getattr(inner, "takes_dropout_keys", False):
        return module(batch.inputs, batch.keys)
    output = module(batch.inputs)
    output = output if isinstance(output, Tensor) else getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise UserCodeError(
            f"spec.model.factory: {type(inner).__name__} returned {type(output).__name__}; its forward must return "
            "a tensor, or an object with a tensor `logits`"
        )
    return output


def token_loss(output: Tensor, targets: Tensor, part: VocabularyPart | None = None) -> Tensor:
    """Cross-entropy of logits [B, T, V], or of this rank's part of them, for targets [B, T]."""
    return cross_entropy_sum(_checked(output, [*targets.shape, None]), targets, part)


def _class_loss(output: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy_sum(_checked(output, [len(targets), None]), targets)


def _value_loss(output: Tensor, targets: Tensor) -> Tensor:
    return squared_error_sum(_checked(output, list(targets.shape)), targets)


def _checked(output: Tensor, expected: list[int | None]) -> Tensor:
    """The output, if its shape is the expected one (None: any size)."""
    fits = output.ndim == len(expected) and all(e in (None, s) for e, s in zip(expected, output.shape, strict=True))
    if not fits:
        wanted = ["classes" if size is None else size for size in expected]
        raise UserCodeError(f"spec.model: the model returned {list(output.shape)}; the loss needs {wanted}")
    return output


def _vocabulary(spec: Model, facts: DataFacts) -> int:
    _require_tokens(spec, facts)
    if not spec.vocabulary_size and not facts.vocabulary_size:
        raise ConfigError(
            "spec.model.vocabularySize: 0 takes it from the data, but no .json beside the tokens states it; set it"
        )
    if spec.vocabulary_size and spec.vocabulary_size < facts.vocabulary_size:
        raise ConfigError(
            f"spec.model.vocabularySize: {spec.vocabulary_size} is less than the {facts.vocabulary_size} token ids of "
            f"the data; use 0 or at least {facts.vocabulary_size}"
        )
    return spec.vocabulary_size or facts.vocabulary_size


def _require_tokens(spec: Model, facts: DataFacts) -> None:
    if facts.task != "tokens":
        raise ConfigError(
            f"spec.data.type: {spec.type} models read tokens, not {facts.task}; use tokens, text or jsonl"
        )


def _mlp_sizes(spec: Model, facts: DataFacts) -> tuple[int, int]:
    """(inputs, outputs) of the mlp: the spec's, which must agree with the data, or the data's."""
    if facts.task == "tokens":
        raise ConfigError("spec.data.type: mlp models read vectors, not tokens; use tensors or synthetic")
    if spec.input_size not in (0, facts.input_size):
        raise ConfigError(
            f"spec.model.inputSize: {spec.input_size} but the data has {facts.input_size} features; use 0"
        )
    fits = spec.output_size == facts.output_size or (
        facts.task == "classification" and spec.output_size > facts.output_size
    )
    if spec.output_size and not fits:
        raise ConfigError(
            f"spec.model.outputSize: {spec.output_size} but the data has {facts.output_size} outputs; use 0"
        )
    return facts.input_size, spec.output_size or facts.output_size


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _names_and_size(module: nn.Module) -> tuple[frozenset[str], int]:
    """Of parameters and persistent buffers the names, of parameters the entries; a tied one once."""
    tied = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    names = {name for name, _ in module.named_parameters()} | (module.state_dict().keys() - tied)
    return frozenset(names), _size(module)


def _gpt_flops(module: nn.Module, spec: Model, T: int) -> float:
    """6 per matrix entry and token, the output matrix counted once, plus 12 L H T^2 of attention (2204.02311, B)."""
    matrices = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
    return 6.0 * matrices * T + 12.0 * spec.layers * spec.hidden_size * T * T


def _huggingface_flops(module: nn.Module, T: int) -> float:
    """As for the gpt, sizes from the library's config; 0 where it does not state them."""
    config = module.config
    layers, hidden = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
    matrices = _size(module) - module.get_input_embeddings().weight.numel()
    if getattr(config, "tie_word_embeddings", False):
        matrices += module.get_input_embeddings().weight.numel()
    return 6.0 * matrices * T + 12.0 * layers * hidden * T * T if layers and hidden else 0.0


def _largest_list(module: nn.Module) -> list[nn.Module]:
    """The ModuleList with most parameters: the repeated blocks of nearly every transformer. Empty if there is none."""
    lists = [child for child in module.modules() if isinstance(child, nn.ModuleList)]
    return list(max(lists, key=_size, default=nn.ModuleList()))
