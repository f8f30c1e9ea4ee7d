"""Hugging Face's names for what is ours as well, GPT-2 and Llama: one table to read a model and to write it.

Their GPT-2 keeps matrices as [in, out] (its Conv1D is x W, a Linear is x W^T), and q, k and v as one. Source:
GPT2LMHeadModel and LlamaForCausalLM of transformers, and their configurations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from adts_api.training import Model
from adts_trainer.models.gpt import intermediate_size

Config = dict[str, Any]
"""Of a config.json."""
EPSILON = 1e-5
"""Of every norm of ours."""


@dataclass(frozen=True)
class Stored:
    """Where a file has a parameter of ours."""

    name: str
    transposed: bool = False
    part: int = 0
    parts: int = 1
    """It is number `part` of so many equal parts, along our first dimension."""

    def shape(self, there: list[int]) -> tuple[int, ...]:
        """Our shape of a tensor that has this shape in the file."""
        sizes = there[::-1] if self.transposed else list(there)
        return (sizes[0] // self.parts, *sizes[1:]) if sizes else ()

    def slices(self, offsets: tuple[int, ...], sizes: tuple[int, ...], rows: int) -> tuple[slice, ...]:
        """Where a rectangle of our parameter, which has so many rows, is in the file's tensor."""
        first = [offset + (self.part * rows if axis == 0 else 0) for axis, offset in enumerate(offsets)]
        found = [slice(start, start + size) for start, size in zip(first, sizes, strict=True)]
        return tuple(found[::-1] if self.transposed else found)


def _linear(ours: str, theirs: str) -> dict[str, Stored]:
    return {f"{ours}.weight": Stored(f"{theirs}.weight")}


def _norm(ours: str, theirs: str) -> dict[str, Stored]:
    return {f"{ours}.{kind}": Stored(f"{theirs}.{kind}") for kind in ("weight", "bias")}


def _conv1d(ours: str, theirs: str, part: int = 0, parts: int = 1) -> dict[str, Stored]:
    weight = Stored(f"{theirs}.weight", transposed=True, part=part, parts=parts)
    return {f"{ours}.weight": weight, f"{ours}.bias": Stored(f"{theirs}.bias", part=part, parts=parts)}


TABLES: dict[str, dict[str, Stored]] = {
    "gpt2": {
        **_linear("token_embedding", "transformer.wte"),
        **_linear("position_embedding", "transformer.wpe"),
        **_norm("layers.*.attention_norm", "transformer.h.*.ln_1"),
        **_conv1d("layers.*.attention.q", "transformer.h.*.attn.c_attn", 0, 3),
        **_conv1d("layers.*.attention.k", "transformer.h.*.attn.c_attn", 1, 3),
        **_conv1d("layers.*.attention.v", "transformer.h.*.attn.c_attn", 2, 3),
        **_conv1d("layers.*.attention.o", "transformer.h.*.attn.c_proj"),
        **_norm("layers.*.feed_forward_norm", "transformer.h.*.ln_2"),
        **_conv1d("layers.*.feed_forward.up", "transformer.h.*.mlp.c_fc"),
        **_conv1d("layers.*.feed_forward.down", "transformer.h.*.mlp.c_proj"),
        **_norm("final_norm", "transformer.ln_f"),
        **_linear("head", "lm_head"),
    },
    "llama": {
        **_linear("token_embedding", "model.embed_tokens"),
        **_linear("layers.*.attention_norm", "model.layers.*.input_layernorm"),
        **_linear("layers.*.attention.q", "model.layers.*.self_attn.q_proj"),
        **_linear("layers.*.attention.k", "model.layers.*.self_attn.k_proj"),
        **_linear("layers.*.attention.v", "model.layers.*.self_attn.v_proj"),
        **_linear("layers.*.attention.o", "model.layers.*.self_attn.o_proj"),
        **_linear("layers.*.feed_forward_norm", "model.layers.*.post_attention_layernorm"),
        **_linear("layers.*.feed_forward.gate", "model.layers.*.mlp.gate_proj"),
        **_linear("layers.*.feed_forward.up", "model.layers.*.mlp.up_proj"),
        **_linear("layers.*.feed_forward.down", "model.layers.*.mlp.down_proj"),
        **_linear("final_norm", "model.norm"),
        **_linear("head", "lm_head"),
    },
}
"""By shape: every parameter of ours, `*` for the number of its layer."""

_PREFIXES = {"gpt2": "transformer.", "llama": "model."}
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Constants that older files have; no weights."""


def stored(shape: str, name: str) -> Stored:
    """Where a file has the parameter `name` of a gpt of this shape."""
    number = re.match(r"layers\.(\d+)\.", name)
    if number is None:
        return TABLES[shape][name]
    place = TABLES[shape][f"layers.*.{name[number.end() :]}"]
    return replace(place, name=place.name.replace("*", number[1]))


def full_name(shape: str, name: str) -> str:
    """The name as in the table: files of a model without its head leave the prefix out. Empty for what is no weight."""
    if name.endswith(_BUFFERS):
        return ""
    prefix = _PREFIXES[shape]
    return name if name.startswith((prefix, "lm_head.")) else prefix + name


def model_of(config: Config) -> Model:
    """What `spec.model` says of the model that a config.json describes. Raises KeyError where it leaves a size out."""
    if config["model_type"] == "gpt2":
        return Model(
            type="gpt",
            shape="gpt2",
            layers=config["n_layer"],
            hidden_size=config["n_embd"],
            heads=config["n_head"],
            intermediate_size=config.get("n_inner") or 4 * config["n_embd"],
            vocabulary_size=config["vocab_size"],
            tie_embeddings=config.get("tie_word_embeddings", True),
        )
    return Model(
        type="gpt",
        shape="llama",
        layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        heads=config["num_attention_heads"],
        key_value_heads=config.get("num_key_value_heads") or 0,
        intermediate_size=config["intermediate_size"],
        vocabulary_size=config["vocab_size"],
        tie_embeddings=config.get("tie_word_embeddings", False),
        rope_theta=_rope(config).get("rope_theta", config.get("rope_theta", 10000.0)),
    )


def obstacles(config: Config) -> Iterator[str]:
    """What a config.json asks for that our gpt cannot do at all."""
    model_type = config.get("model_type")
    if model_type not in ("gpt2", "llama"):
        yield f"model_type {model_type}, and only gpt2 and llama are known"
        return
    wanted: dict[str, tuple[Any, ...]] = {
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "add_cross_attention": (False,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "hidden_act": ("silu",),
        "activation_function": ("gelu", *_TANH),
    }
    for key, values in wanted.items():
        if config.get(key, values[0]) not in values:
            yield f"{key} {config[key]}"
    kind = _rope(config).get("rope_type", _rope(config).get("type", "default"))
    if kind != "default":
        yield f"rotary embeddings of type {kind}"
    size = config.get("head_dim")
    if size and size * config["num_attention_heads"] != config["hidden_size"]:
        yield f"head_dim {size}, which is not hidden_size / num_attention_heads"


def differences(config: Config) -> Iterator[str]:
    """What a config.json asks for that our gpt computes a little differently."""
    activation = config.get("activation_function", "gelu_new")
    if config["model_type"] == "gpt2" and activation in _TANH:
        yield f"GELU is computed exactly here, not by the tanh formula of its {activation}"
    default = 1e-6 if config["model_type"] == "llama" else EPSILON
    epsilon = config.get("rms_norm_eps", config.get("layer_norm_epsilon", default))
    if epsilon != EPSILON:
        yield f"norms add {EPSILON:g} to the variance here, not {epsilon:g}"


def config_of(model: Model, vocabulary: int, positions: int, dtype: str) -> Config:
    """The config.json of a gpt with so many token ids and positions."""
    common: Config = {
        "vocab_size": vocabulary,
        "tie_word_embeddings": model.tie_embeddings,
        "dtype": dtype,
        "bos_token_id": None,  # else the library takes ids of its own models
        "eos_token_id": None,
        "use_cache": True,
    }
    if model.shape == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            **common,
            "n_positions": positions,
            "n_embd": model.hidden_size,
            "n_layer": model.layers,
            "n_head": model.heads,
            "n_inner": intermediate_size(model),
            "activation_function": "gelu",
            "layer_norm_epsilon": EPSILON,
            "embd_pdrop": model.dropout,
            "resid_pdrop": model.dropout,
            "attn_pdrop": 0.0,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **common,
        "max_position_embeddings": positions,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.key_value_heads or model.heads,
        "head_dim": model.hidden_size // model.heads,
        "intermediate_size": intermediate_size(model),
        "hidden_act": "silu",
        "rms_norm_eps": EPSILON,
        "rope_theta": model.rope_theta,  # transformers 4
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},  # and 5
        "attention_bias": False,
        "mlp_bias": False,
    }


_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


def _rope(config: Config) -> Config:
    """What it says of rotary embeddings: one mapping since transformers 5, one of two names before."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}
