"""Parameters, forward flops and saved activations of the built-in models, part by part, from the spec alone.

A part is what is sharded, recomputed or put on a pipeline stage as a whole: the input, each layer, the output. Sizes
are per sample. The trainer's models are tested against these shapes, and what autograd really keeps against `Saved`.
Letters: T positions (1 for mlp), H hidden size, I width inside the feed-forward, K width of keys, V outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal

from adts_api.errors import ConfigError
from adts_api.training import Model
from adts_api.v1alpha1 import Spec

BYTE_IDS = 256
"""Ids of the tokenizer `bytes`."""

Cut = Literal["whole", "tensor", "sequence"]
"""How tensor parallelism holds an activation: whole on every rank, a part of it, a part with sequenceParallel only."""


class UnknownShapeError(ConfigError):
    """The spec alone does not say how large the model is."""


@dataclass(frozen=True)
class Parameter:
    """One tensor of weights. A tied output matrix is none of its own."""

    name: str
    shape: tuple[int, ...]
    cut: int | None = None
    """Dimension that tensor parallelism cuts; None keeps the whole tensor on every rank."""
    is_operand: bool = True
    """Whether it takes part in a matrix product: autocast makes a copy in the compute format of those."""

    def elements(self, tensor: int = 1) -> int:
        """Entries on one rank of a tensor-parallel group; a dimension that does not divide is padded."""
        sizes = [-(-size // tensor) if axis == self.cut else size for axis, size in enumerate(self.shape)]
        return prod(sizes)


@dataclass(frozen=True)
class Saved:
    """A tensor that autograd keeps from the forward to the backward pass."""

    name: str
    elements: int
    """Entries per sample."""
    cut: Cut = "whole"
    format: Literal["compute", "residual", "precise", "byte"] = "compute"
    """`residual`: the stream between layers, fp32 under autocast. `precise`: fp32 whatever the compute format (fp64
    with fp64). `byte`: one byte."""
    copies: int = 1
    """Copies under autocast, where each matrix product casts its own input, and with sequenceParallel, where each makes
    its own contiguous one."""


@dataclass(frozen=True, eq=False)
class Part:
    """One unit of the model. Equal layers are one object."""

    prefix: str
    """Of its parameters' names; `layers` takes the layer's index behind it."""
    parameters: tuple[Parameter, ...]
    saved: tuple[Saved, ...]
    forward_flops: float
    """Per sample; the backward pass takes twice as many."""
    working: int = 0
    """Entries per sample of gradients of activations that live beside the saved ones in its backward pass, over what
    that pass has freed by then; cut like the widest of them, by tensor."""
    tables: int = 0
    """Entries, in fp32, kept per micro-batch whatever its size."""
    is_layer: bool = False
    """Whether it is one of the repeated layers: units of sharding and of recomputation."""

    @lru_cache(maxsize=4096)  # noqa: B019  bounded
    def elements(self, tensor: int = 1) -> int:
        """Entries of its parameters on one rank of a tensor-parallel group."""
        return sum(parameter.elements(tensor) for parameter in self.parameters)


@dataclass(frozen=True)
class ModelShape:
    """A built-in model in parts, in the order of the forward pass."""

    first: Part
    """The embeddings of a gpt; empty for an mlp."""
    layers: tuple[Part, ...]
    last: Part
    """Final norm and output matrix."""
    positions: int
    """T: positions of a sample that have outputs."""
    width: int
    """Entries per position that go from one layer to the next."""
    outputs: int
    """V: logits or values per position."""
    input_bytes: int
    """Of one sample: inputs, targets and dropout key."""
    is_tied: bool
    """Whether the output matrix is the token embedding, a parameter of `first`."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.first, *self.layers, self.last)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Every parameter by its name in the model."""
        named = [(self.first, ""), *((layer, f"{index}.") for index, layer in enumerate(self.layers)), (self.last, "")]
        return {f"{part.prefix}{index}{it.name}": it for part, index in named for it in part.parameters}

    @property
    def forward_flops(self) -> float:
        """Per sample."""
        return sum(part.forward_flops for part in self.parts)


def model_shape(spec: Spec) -> ModelShape:
    """The parts of the spec's model. Raises UnknownShapeError where only the data or foreign code knows them."""
    on_cpu = not spec.workers.gpus_per_worker or spec.training.device == "cpu"
    match spec.model.type:
        case "gpt":
            return _gpt(spec.model, vocabulary(spec), spec.data.sequence_length, on_cpu=on_cpu)
        case "mlp":
            return _mlp(spec.model, 8 if spec.precision.dtype == "fp64" else 4)
        case "":
            raise UnknownShapeError("spec.command: a command's memory is unknown; set spec.model to plan")
        case kind:
            raise UnknownShapeError(f"spec.model.type: the sizes of a {kind} model are unknown until it is built")


def vocabulary(spec: Spec) -> int:
    """Token ids of a gpt. Raises UnknownShapeError where only the data says."""
    if spec.model.vocabulary_size:
        return spec.model.vocabulary_size
    if spec.data.type in ("text", "jsonl") and spec.data.tokenizer == "bytes":
        return BYTE_IDS
    raise UnknownShapeError("spec.model.vocabularySize: 0 takes it from the data, which is not read here; set it")


def intermediate_size(model: Model) -> int:
    """Width inside the feed-forward: the spec's, or 4 H (gpt2), or 8/3 H rounded up to a multiple of 64 (llama)."""
    if model.intermediate_size:
        return model.intermediate_size
    return 4 * model.hidden_size if model.shape == "gpt2" else -(-8 * model.hidden_size // (3 * 64)) * 64


def _gpt(model: Model, V: int, T: int, *, on_cpu: bool) -> ModelShape:  # noqa: N803
    H, is_gpt2 = model.hidden_size, model.shape == "gpt2"  # noqa: N806
    embeddings = [Parameter("token_embedding.weight", (V, H), cut=0, is_operand=model.tie_embeddings)]
    if is_gpt2:
        embeddings.append(Parameter("position_embedding.weight", (T, H), is_operand=False))
    masks = (Saved("dropout mask", T * H, format="byte"),) if model.dropout else ()
    first = Part("", tuple(embeddings), masks, 0.0, tables=2 * T if is_gpt2 else 0)
    head = () if model.tie_embeddings else (Parameter("head.weight", (V, H), cut=0),)
    last = Part(
        "",
        (*_norm_parameters("final_norm", H, biases=is_gpt2), *head),
        (
            *_norm_saved("final", T, H, is_gpt2=is_gpt2, on_cpu=on_cpu),
            Saved("input of the output matrix", T * H),
            *_loss_saved(T, V),
        ),
        2.0 * V * H * T,
    )
    layer = _block(model, T, on_cpu=on_cpu)
    return ModelShape(first, (layer,) * model.layers, last, T, H, V, 16 * T + 8, model.tie_embeddings)


def _block(model: Model, T: int, *, on_cpu: bool) -> Part:  # noqa: N803
    H, I, N = model.hidden_size, intermediate_size(model), model.heads  # noqa: E741, N806
    K = (model.key_value_heads or N) * (H // N)  # noqa: N806
    is_gpt2 = model.shape == "gpt2"
    inner = ("up",) if is_gpt2 else ("gate", "up")
    columns = [("attention.q", (H, H)), ("attention.k", (K, H)), ("attention.v", (K, H))]
    columns += [(f"feed_forward.{name}", (I, H)) for name in inner]
    rows = [("attention.o", (H, H)), ("feed_forward.down", (H, I))]
    parameters = [
        *_norm_parameters("attention_norm", H, biases=is_gpt2),
        *_norm_parameters("feed_forward_norm", H, biases=is_gpt2),
        *(Parameter(f"{name}.weight", shape, cut=0) for name, shape in columns),
        *(Parameter(f"{name}.weight", shape, cut=1) for name, shape in rows),
    ]
    if is_gpt2:
        parameters += [Parameter(f"{name}.bias", shape[:1], cut=0) for name, shape in columns]
        parameters += [Parameter(f"{name}.bias", shape[:1]) for name, shape in rows]
    matrices = sum(prod(shape) for _, shape in (*columns, *rows))
    masks = (Saved("dropout masks", 2 * T * H, format="byte"),) if model.dropout else ()
    saved = (
        *_norm_saved("attention", T, H, is_gpt2=is_gpt2, on_cpu=on_cpu),
        Saved("input of q, k and v", T * H, copies=3),
        Saved("queries", T * H, "tensor"),
        Saved("keys and values", 2 * T * K, "tensor"),
        Saved("logsumexp of attention", T * N, "tensor", "precise"),
        Saved("attention output", T * H, "tensor"),
        *_norm_saved("feed-forward", T, H, is_gpt2=is_gpt2, on_cpu=on_cpu),
        Saved("input of the feed-forward", T * H, copies=len(inner)),
        Saved("inside the feed-forward", (2 if is_gpt2 else 4) * T * I, "tensor"),
        *masks,
    )
    return Part(
        "layers.",
        tuple(parameters),
        saved,
        2.0 * matrices * T + 4.0 * H * T * T,
        working=(1 if is_gpt2 else 2) * T * I,
        tables=0 if is_gpt2 else 4 * T * (H // N),
        is_layer=True,
    )


def _norm_parameters(name: str, size: int, *, biases: bool) -> tuple[Parameter, ...]:
    weight = Parameter(f"{name}.weight", (size,), is_operand=False)
    return (weight, Parameter(f"{name}.bias", (size,), is_operand=False)) if biases else (weight,)


def _norm_saved(name: str, T: int, H: int, *, is_gpt2: bool, on_cpu: bool) -> tuple[Saved, ...]:  # noqa: N803
    """LayerNorm keeps its input, mean and deviation; RMSNorm its input and deviation, and on the CPU, where torch has
    no fused kernel, input and normalised input in fp32."""
    if is_gpt2 or not on_cpu:
        statistics = Saved(f"statistics of the {name} norm", (2 if is_gpt2 else 1) * T, "sequence", "residual")
        return Saved(f"input of the {name} norm", T * H, "sequence", "residual"), statistics
    return (Saved(f"input of the {name} norm, twice", 2 * T * H + T, "sequence", "precise"),)


def _loss_saved(T: int, V: int) -> tuple[Saved, ...]:  # noqa: N803
    """Cross-entropy keeps the logits as they came and one logsumexp a row."""
    return Saved("logits", T * V, "tensor"), Saved("logsumexp of the logits", T, format="precise")


def _mlp(model: Model, input_item: int) -> ModelShape:
    F, H, V = model.input_size, model.hidden_size, model.output_size  # noqa: N806
    if not F or not V:
        name = "outputSize" if F else "inputSize"
        raise UnknownShapeError(f"spec.model.{name}: 0 takes it from the data, which is not read here; set it")
    masks = (Saved("dropout mask", H, format="byte"),) if model.dropout else ()

    def layer(inputs: int) -> Part:
        parameters = Parameter("linear.weight", (H, inputs)), Parameter("linear.bias", (H,))
        saved = (Saved("before and after GELU", 2 * H), *masks)
        return Part("layers.", parameters, saved, 2.0 * H * (inputs + 1), H, is_layer=True)

    layers = (layer(F), *((layer(H),) * (model.layers - 1)))
    output = Parameter("output.weight", (V, H)), Parameter("output.bias", (V,))
    last = Part("", output, _loss_saved(1, V), 2.0 * V * (H + 1))
    nothing = Part("", (), (), 0.0)
    return ModelShape(nothing, layers, last, 1, H, V, input_item * F + 16, is_tied=False)
