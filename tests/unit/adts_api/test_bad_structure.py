"""Wrong fields, types and bounds: each gets exactly one line with path, value, rule and fix."""

from __future__ import annotations

from typing import Any

import pytest

from support.manifests import GPT, changed, complaints

ASSIGNMENTS = {
    "string for integer": ("training.steps=ten", "spec.training.steps: 'ten' is a string; write an integer"),
    "fraction for integer": ("training.steps=1.5", "spec.training.steps: 1.5 is a number; write an integer"),
    "boolean for integer": ("zero.stage=true", "spec.zero.stage: true is a boolean; write an integer"),
    "mapping for integer": ("training.seed={a: 1}", "spec.training.seed: is a mapping; write an integer"),
    "list for number": ("optimizer.learningRate=[1]", "spec.optimizer.learningRate: is a list; write a number"),
    "string for boolean": (
        "training.compile='yes'",
        "spec.training.compile: 'yes' is a string; write true or false",
    ),
    "integer for string": ("data.path=5", "spec.data.path: 5 is an integer; write a string"),
    "date stays a string": (
        "training.seed=2027-01-15",
        "spec.training.seed: '2027-01-15' is a string; write an integer",
    ),
    "string for list": ("command=python", "spec.command: 'python' is a string; write a list"),
    "integer in a list of strings": ("command=[python, 1]", "spec.command[1]: 1 is an integer; write a string"),
    "null in a list": ("command=[null]", "spec.command[0]: is null; write a string"),
    "scalar for block": ("optimizer=adamw", "spec.optimizer: 'adamw' is a string; write a mapping"),
    "list for template": ("workers.template=[]", "spec.workers.template: is a list; write a mapping"),
    "not finite": (
        "optimizer.learningRate=.inf",
        "spec.optimizer.learningRate: inf is not finite; write a finite number",
    ),
    "not a number, deep inside": (
        "workers.template.spec.x=[.nan]",
        "spec.workers.template.spec.x[0]: nan is not finite; write a finite number",
    ),
    "more than 64 bits": (
        "training.seed=9223372036854775808",
        "spec.training.seed: 9223372036854775808 needs more than 64 bits; write a smaller integer",
    ),
    "below its bound": ("training.steps=-1", "spec.training.steps: -1 is below 0; use at least 0"),
    "at an open lower bound": (
        "optimizer.learningRate=0",
        "spec.optimizer.learningRate: 0 is not above 0; use a number above 0",
    ),
    "above its bound": ("zero.stage=4", "spec.zero.stage: 4 is above 3; use at most 3"),
    "at an open upper bound": ("model.dropout=1", "spec.model.dropout: 1 is not below 1; use a number below 1"),
    "bound of a list's item": (
        "runPolicy.permanentExitCodes=[3, 256]",
        "spec.runPolicy.permanentExitCodes[1]: 256 is above 255; use at most 255",
    ),
    "no replicas": ("workers.replicas=0", "spec.workers.replicas: 0 is below 1; use at least 1"),
    "no time to save": (
        "runPolicy.gracePeriodSeconds=0",
        "spec.runPolicy.gracePeriodSeconds: 0 is below 1; use at least 1",
    ),
    "no quantity": (
        "workers.gpuMemory=80GB",
        "spec.workers.gpuMemory: '80GB' is no quantity; write one such as 80Gi",
    ),
    "misspelled value": ("model.type=gtp", "spec.model.type: 'gtp' is unknown; did you mean gpt?"),
    "value in the wrong case": (
        "precision.dtype=BF16",
        "spec.precision.dtype: 'BF16' is unknown; did you mean bf16?",
    ),
    "foreign value": (
        "optimizer.schedule.type=polynomial",
        "spec.optimizer.schedule.type: 'polynomial' is unknown; use constant, linear, cosine or wsd",
    ),
    "number for a word": (
        "precision.dtype=16",
        "spec.precision.dtype: 16 is an integer; use fp32, bf16, fp16 or fp64",
    ),
    "suggestions are values with code": (
        "zero.engine=horovod",
        "spec.zero.engine: 'horovod' is unknown; use auto, ddp, native or deepspeed",
    ),
    "misspelled field": (
        "optimizer.learninRate=0.1",
        "spec.optimizer.learninRate: unknown field; did you mean `learningRate`?",
    ),
    "snake case": (
        "optimizer.learning_rate=0.1",
        "spec.optimizer.learning_rate: unknown field; did you mean `learningRate`?",
    ),
    "field of another block": (
        "learningRate=0.1",
        "spec.learningRate: unknown field; did you mean `spec.optimizer.learningRate`?",
    ),
    "misspelled block": ("optimiser={}", "spec.optimiser: unknown field; did you mean `optimizer`?"),
    "unknown field": ("training.colour=blue", "spec.training.colour: unknown field; remove it"),
    "name with capitals": (
        "metadata.name=Demo",
        "metadata.name: 'Demo' is no DNS label; use at most 50 lower-case letters, digits and -, a letter first",
    ),
    "name with a dot": (
        "metadata.name=a.b",
        "metadata.name: 'a.b' is no DNS label; use at most 50 lower-case letters, digits and -, a letter first",
    ),
    "name that begins with a digit": (
        "metadata.name=7b",
        "metadata.name: '7b' is no DNS label; use at most 50 lower-case letters, digits and -, a letter first",
    ),
    "name of 51 characters": (
        f"metadata.name={'a' * 51}",
        f"metadata.name: '{'a' * 51}' has 51 characters; "
        "use at most 50 lower-case letters, digits and -, a letter first",
    ),
    "name that is a number": ("metadata.name=12", "metadata.name: 12 is an integer; write a string"),
    "other version": (
        "apiVersion=adts.dev/v1",
        "apiVersion: 'adts.dev/v1' is unknown; did you mean adts.dev/v1alpha1?",
    ),
    "other kind": ("kind=Job", "kind: 'Job' is unknown; use DistributedTraining"),
}


@pytest.mark.parametrize(("assignment", "line"), ASSIGNMENTS.values(), ids=ASSIGNMENTS)
def test_one_wrong_field_is_one_line(assignment: str, line: str) -> None:
    assert complaints(changed(assignment)) == [line]


ROOTS: dict[str, tuple[Any, list[str]]] = {
    "a list": ([], ["manifest: is a list; write a mapping with apiVersion, kind, metadata and spec"]),
    "nothing": (None, ["manifest: is null; write a mapping with apiVersion, kind, metadata and spec"]),
    "no metadata": ({**GPT, "metadata": None}, ["metadata: is missing; add it"]),
    "no name": ({**GPT, "metadata": {}}, ["metadata.name: is missing; add it"]),
    "no apiVersion": (
        {key: value for key, value in GPT.items() if key != "apiVersion"},
        ["apiVersion: is missing; write apiVersion: adts.dev/v1alpha1"],
    ),
    "no kind": (
        {key: value for key, value in GPT.items() if key != "kind"},
        ["kind: is missing; write kind: DistributedTraining"],
    ),
    "no spec": (
        {key: value for key, value in GPT.items() if key != "spec"},
        ["spec.model.type: is empty; write gpt, mlp, custom or huggingface"],
    ),
    "spec is a string": ({**GPT, "spec": "x"}, ["spec: 'x' is a string; write a mapping"]),
    "unknown field at the root": ({**GPT, "specs": 1}, ["specs: unknown field; did you mean `spec`?"]),
    "key that is no string": (
        {**GPT, "spec": {**GPT["spec"], 5: 1}},
        ["spec: key 5 is an integer; put it in quotes"],
    ),
}


@pytest.mark.parametrize(("manifest", "lines"), ROOTS.values(), ids=ROOTS)
def test_a_wrong_frame_is_named(manifest: Any, lines: list[str]) -> None:
    assert complaints(manifest) == lines


def test_a_value_that_contains_itself_is_refused() -> None:
    labels: dict[str, Any] = {}
    labels["self"] = labels
    manifest = changed("workers.template={}")
    manifest["spec"]["workers"] = {"template": {"metadata": {"labels": labels}}}
    assert complaints(manifest) == [
        'spec.workers.template.metadata.labels["self"]: is a mapping; write a string, in quotes'
    ]


def test_deep_nesting_is_refused() -> None:
    value: Any = 1
    for _ in range(100):
        value = [value]
    manifest = changed("model.type=custom", "model.factory='a:b'")
    manifest["spec"]["model"]["arguments"] = {"x": value}
    (line,) = complaints(manifest)
    assert line.endswith("is nested deeper than 60 levels; write it flatter")


def test_null_means_the_default_as_for_the_api_server() -> None:
    assert complaints(changed("optimizer=null", "training.seed=null", "runPolicy={activeDeadlineSeconds: null}")) == []
