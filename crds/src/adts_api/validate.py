"""The one validation function: CLI, operator and trainer call `parse`; every error is reported at once.

First the structure (field names, types, bounds), then the rules across fields. A rule that reads a broken field
keeps silent, so that no error follows from another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

from adts_api import (
    rules_command,
    rules_compression,
    rules_data,
    rules_layout,
    rules_model,
    rules_outer,
    rules_run,
    rules_scheduling,
    rules_template,
    rules_zero,
)
from adts_api.cells import rule_engine_cell, rule_not_yet
from adts_api.effects import EFFECTS, effect_errors
from adts_api.errors import FieldError, ManifestError
from adts_api.fields import alias, spec_leaves
from adts_api.planner import choose
from adts_api.rules_memory import rule_memory
from adts_api.structure import read_structure
from adts_api.training import ApiModel
from adts_api.v1alpha1 import DistributedTraining, Spec

Rule = Callable[[Spec], Iterator[FieldError]]

TRAINING_RULES: tuple[Rule, ...] = (
    rules_data.rule_data_type,
    rules_data.rule_data_path,
    rules_model.rule_steps,
    rules_layout.rule_device,
    rules_layout.rule_tensor,
    rules_layout.rule_tensor_sizes,
    rules_layout.rule_sequence_parallel,
    rules_layout.rule_pipeline,
    rules_layout.rule_stages,
    rule_engine_cell,
    rules_layout.rule_shard_degree,
    rules_zero.rule_offload,
    rules_zero.rule_deepspeed,
    rules_layout.rule_bucket,
    rules_compression.rule_compression,
    rules_compression.rule_auto,
    rules_compression.rule_own_compressor,
    rules_compression.rule_overlap,
    rules_compression.rule_reduce_dtype,
    rules_compression.rule_onebit_adam,
    rules_outer.rule_replicas,
    rules_outer.rule_rounds,
    rules_outer.rule_apart,
    rules_outer.rule_outer_step,
    rules_layout.rule_global_batch,
    rules_model.rule_heads,
    rules_model.rule_key_value_heads,
    rules_model.rule_factory,
    rules_model.rule_huggingface_folder,
    rules_model.rule_vocabulary,
    rules_data.rule_synthetic,
    rules_data.rule_local_paths,
    rules_data.rule_checkpoint_folder,
    rules_data.rule_initial_weights,
    rules_data.rule_export,
    rules_run.rule_schedule,
    rules_run.rule_divergence,
    *(partial(effect_errors, effect) for effect in EFFECTS),
)
"""On what our trainer reads; silent beside `command`."""

RULES: tuple[Rule, ...] = (
    rules_model.rule_model_or_command,
    rules_command.rule_command,
    rules_layout.rule_processes,
    rules_template.rule_template,
    rules_data.rule_claims,
    rules_run.rule_deadlines,
    rules_scheduling.rule_names,
    rules_scheduling.rule_manager,
    rules_scheduling.rule_one_place,
    *(rules_command.without_command(rule) for rule in TRAINING_RULES),
)


def parse(manifest: dict[str, Any], source: str = "") -> DistributedTraining:
    """The typed resource of a manifest, with the layout that `parallelism.mode: auto` chose.

    Raises ManifestError with every field error; `source` names the file.
    """
    job, errors, broken = read_structure(manifest)
    if not broken:
        job = job.model_copy(update={"spec": choose(job.spec)})
    if "metadata.name" not in broken and "metadata" not in broken:
        errors += rules_run.name_errors(job)
    if "spec" not in broken:
        errors += spec_errors(job.spec, broken)
    if not errors:
        errors += rule_memory(job.spec)
    if errors:
        raise ManifestError(without_repetition(errors), source)
    return job


def spec_errors(spec: Spec, broken: set[str]) -> list[FieldError]:
    """The errors across fields, and those of fields without code."""
    view = cast(Spec, Guarded(spec, "spec", broken))
    rules: list[Rule] = [*RULES, *(partial(rule_not_yet, field) for field in spec_leaves().values())]
    return [error for rule in rules for error in found_by(rule, view)]


def found_by(rule: Rule, view: Spec) -> Iterator[FieldError]:
    """What a rule finds before it meets a broken field."""
    try:
        yield from rule(view)
    except BrokenFieldError:
        return


def without_repetition(errors: list[FieldError]) -> list[FieldError]:
    """The errors without those that ask for the same change of the same field again."""
    return list({(error.path, error.fix): error for error in reversed(errors)}.values())[::-1]


class BrokenFieldError(Exception):
    """A rule read a field whose structure is broken."""


class Guarded:
    """A view of a model that stops a rule at the first broken field it reads."""

    def __init__(self, model: ApiModel, path: str, broken: set[str]) -> None:
        self._model, self._path, self._broken = model, path, broken

    def __getattr__(self, name: str) -> Any:
        info = type(self._model).model_fields[name]
        path = f"{self._path}.{alias(name, info)}"
        if path in self._broken:
            raise BrokenFieldError(path)
        value = getattr(self._model, name)
        return Guarded(value, path, self._broken) if isinstance(value, ApiModel) else value
