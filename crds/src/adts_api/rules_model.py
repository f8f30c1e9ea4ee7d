"""Rules on the model: what each type needs and which shapes exist."""

from __future__ import annotations

from collections.abc import Iterator

from adts_api.errors import FieldError
from adts_api.v1alpha1 import Spec
from adts_api.wording import show, use_divisor


def rule_model_or_command(spec: Spec) -> Iterator[FieldError]:
    """Exactly one of model and command."""
    if spec.command and spec.model.type:
        yield FieldError("spec.command", f"excludes spec.model.type {spec.model.type}", "remove one of them")
    elif not spec.command and not spec.model.type:
        yield FieldError("spec.model.type", "is empty", "write gpt, mlp, custom or huggingface")


def rule_steps(spec: Spec) -> Iterator[FieldError]:
    """A model is trained for some steps."""
    if spec.model.type and not spec.training.steps:
        yield FieldError("spec.training.steps", "0 trains nothing", "write the number of optimizer steps")


def rule_heads(spec: Spec) -> Iterator[FieldError]:
    """Heads cut hiddenSize into equal parts, of an even size where RoPE rotates pairs."""
    model = spec.model
    if model.type != "gpt":
        return
    if model.hidden_size % model.heads:
        problem = f"{model.heads} does not divide hiddenSize {model.hidden_size}"
        yield FieldError("spec.model.heads", problem, use_divisor(model.heads, model.hidden_size))
        return
    size = model.hidden_size // model.heads
    if model.shape == "llama" and size % 2:
        problem = f"{model.heads} gives heads the odd size {size}, but RoPE rotates pairs"
        fix = "make hiddenSize even"
        if model.hidden_size % 2 == 0:
            fix = use_divisor(model.heads, model.hidden_size, lambda heads: model.hidden_size // heads % 2 == 0)
        yield FieldError("spec.model.heads", problem, fix)


def rule_key_value_heads(spec: Spec) -> Iterator[FieldError]:
    """Groups of query heads share keys and values in equal parts."""
    model = spec.model
    if model.type == "gpt" and model.key_value_heads and model.heads % model.key_value_heads:
        problem = f"{model.key_value_heads} does not divide heads {model.heads}"
        yield FieldError("spec.model.keyValueHeads", problem, use_divisor(model.key_value_heads, model.heads))


def rule_factory(spec: Spec) -> Iterator[FieldError]:
    """A custom model names a callable."""
    if spec.model.type != "custom":
        return
    factory, fix = spec.model.factory, "write package.module:callable"
    if not factory:
        yield FieldError("spec.model.factory", "is empty", fix)
    elif not is_import_path(factory):
        yield FieldError("spec.model.factory", f"{show(factory)} is no import path", fix)


def rule_huggingface_folder(spec: Spec) -> Iterator[FieldError]:
    """A Hugging Face model is a local folder."""
    if spec.model.type == "huggingface" and not spec.model.path:
        yield FieldError("spec.model.path", "is empty", "write the local folder with config.json")


def rule_vocabulary(spec: Spec) -> Iterator[FieldError]:
    """Every byte has an id, and a model of yours sizes its own vocabulary where a tokenizer makes the ids."""
    model, data = spec.model, spec.data
    if not model.vocabulary_size:
        return
    is_text, path = data.type in ("text", "jsonl"), "spec.model.vocabularySize"
    if model.type == "gpt" and is_text and data.tokenizer == "bytes" and model.vocabulary_size < 256:
        problem = f"{model.vocabulary_size} is less than the 256 ids of the bytes tokenizer"
        yield FieldError(path, problem, "use 256 or more, or remove it")
    elif model.type in ("custom", "huggingface") and (is_text or data.type == "tensors"):
        problem = f"{model.vocabulary_size} has no effect with model.type {model.type} and data.type {data.type}"
        yield FieldError(path, problem, "remove it")


def is_import_path(text: str) -> bool:
    """Whether text has the form `package.module:callable`."""
    module, _, name = text.partition(":")
    return all(part.isidentifier() for part in [*module.split("."), *name.split(".")])
