"""Rules on data and checkpoints: what each data type needs, and where files may lie."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from adts_api.contract import MOUNT_CHECKPOINTS
from adts_api.errors import FieldError
from adts_api.training import Model
from adts_api.v1alpha1 import Spec
from adts_api.wording import one_of, show

TEXT_LIKE = ("tokens", "text", "jsonl", "synthetic")
DATA_OF_MODEL = {
    "gpt": TEXT_LIKE,
    "huggingface": TEXT_LIKE,
    "mlp": ("tensors", "synthetic"),
    "custom": ("tokens", "text", "jsonl", "tensors", "synthetic"),
}
"""The data types each model type can read."""

DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def rule_data_type(spec: Spec) -> Iterator[FieldError]:
    """The data fits the model."""
    if not spec.model.type:
        return
    allowed = DATA_OF_MODEL[spec.model.type]
    if not spec.data.type:
        yield FieldError("spec.data.type", "is empty", f"write {one_of(allowed)}")
    elif spec.data.type not in allowed:
        problem = f"{spec.data.type} does not fit model.type {spec.model.type}"
        yield FieldError("spec.data.type", problem, f"use {one_of(allowed)}")


def rule_data_path(spec: Spec) -> Iterator[FieldError]:
    """Data that is not made up lies somewhere."""
    if spec.data.type not in ("", "synthetic") and not spec.data.path:
        fix = f"write the file, folder or pattern of the {spec.data.type}"
        yield FieldError("spec.data.path", "is empty", fix)


def rule_synthetic(spec: Spec) -> Iterator[FieldError]:
    """Synthetic data has no file that would tell its sizes."""
    model = spec.model
    if spec.data.type != "synthetic" or not model.type:
        return
    vectors = {"inputSize": model.input_size, "outputSize": model.output_size}
    sizes = vectors if model.type == "mlp" else {"vocabularySize": model.vocabulary_size}
    for name in (name for name, size in sizes.items() if not size):
        problem = "0 takes it from the data, but synthetic data has none"
        yield FieldError(f"spec.model.{name}", problem, "write the number")


def rule_local_paths(spec: Spec) -> Iterator[FieldError]:
    """Files are read and written through the file system."""
    paths = {
        "model.path": spec.model.path,
        "data.path": spec.data.path,
        "data.tokenizer": spec.data.tokenizer,
        "data.evaluation.path": spec.data.evaluation.path,
        "checkpoint.path": spec.checkpoint.path,
        "checkpoint.initializeFrom": spec.checkpoint.initialize_from,
    }
    for path, value in paths.items():
        if "://" in value:
            yield FieldError(
                f"spec.{path}", f"{show(value)} is a URL, which is not supported yet", "use a mounted folder"
            )


def rule_claims(spec: Spec) -> Iterator[FieldError]:
    """Claims have names that Kubernetes accepts."""
    for path, claim in {"data.claim": spec.data.claim, "checkpoint.claim": spec.checkpoint.claim}.items():
        if claim and (len(claim) > 253 or not DNS_SUBDOMAIN.fullmatch(claim)):
            problem = f"{show(claim)} is no name of a PersistentVolumeClaim"
            yield FieldError(f"spec.{path}", problem, "use lower-case letters, digits, - and .")


def rule_checkpoint_folder(spec: Spec) -> Iterator[FieldError]:
    """Checkpoints go somewhere, and with a claim they go into it."""
    checkpoint = spec.checkpoint
    folder = PurePosixPath(checkpoint.path)
    if not checkpoint.path:
        yield FieldError("spec.checkpoint.path", "is empty", f"write a folder, or remove it for {MOUNT_CHECKPOINTS}")
    elif checkpoint.claim and (not folder.is_relative_to(MOUNT_CHECKPOINTS) or ".." in folder.parts):
        problem = f"{show(checkpoint.path)} is outside {MOUNT_CHECKPOINTS}, where claim {checkpoint.claim} is mounted"
        yield FieldError("spec.checkpoint.path", problem, f"use a folder below {MOUNT_CHECKPOINTS}")


def rule_initial_weights(spec: Spec) -> Iterator[FieldError]:
    """A Hugging Face model has its weights beside its config."""
    path = spec.checkpoint.initialize_from
    if path and spec.model.type == "huggingface":
        problem = f"{show(path)} has no effect with model.type huggingface, which loads the weights in spec.model.path"
        yield FieldError("spec.checkpoint.initializeFrom", problem, "remove it")


def rule_export(spec: Spec) -> Iterator[FieldError]:
    """Hugging Face's layout exists for the models it has."""
    reason = without_huggingface_layout(spec.model)
    if spec.checkpoint.export == "huggingface" and reason:
        yield FieldError("spec.checkpoint.export", f"huggingface {reason}", "use safetensors")


def without_huggingface_layout(model: Model) -> str:
    """Why Hugging Face's library has no such model; empty if it has."""
    if model.type not in ("gpt", "huggingface"):
        return f"has no model like model.type {model.type}"
    if model.type == "gpt" and model.shape == "gpt2" and model.key_value_heads not in (0, model.heads):
        return f"has no GPT-2 with keyValueHeads {model.key_value_heads}"
    return ""
