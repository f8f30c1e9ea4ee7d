"""Models and data that do not fit each other, and fields that would have no effect."""

from __future__ import annotations

from typing import Any

import pytest

from support.manifests import GPT, MLP, changed, complaints

CASES: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "no model": (GPT, "model=null", ["spec.model.type: is empty; write gpt, mlp, custom or huggingface"]),
    "no steps": (
        GPT,
        "training.steps=0",
        ["spec.training.steps: 0 trains nothing; write the number of optimizer steps"],
    ),
    "no data": (GPT, "data=null", ["spec.data.type: is empty; write tokens, text, jsonl or synthetic"]),
    "tensors for gpt": (
        GPT,
        "data.type=tensors",
        ["spec.data.type: tensors does not fit model.type gpt; use tokens, text, jsonl or synthetic"],
    ),
    "text for mlp": (
        MLP,
        "data={type: text, path: /data/a.txt}",
        ["spec.data.type: text does not fit model.type mlp; use tensors or synthetic"],
    ),
    "no path": (GPT, "data.path=null", ["spec.data.path: is empty; write the file, folder or pattern of the tokens"]),
    "url as path": (
        GPT,
        "data.path=s3://bucket/train.bin",
        ["spec.data.path: 's3://bucket/train.bin' is a URL, which is not supported yet; use a mounted folder"],
    ),
    "heads": (GPT, "model.heads=3", ["spec.model.heads: 3 does not divide hiddenSize 256; use 2 or 4"]),
    "more heads than hiddenSize": (
        GPT,
        "model.heads=300",
        ["spec.model.heads: 300 does not divide hiddenSize 256; use 256"],
    ),
    "odd head size with RoPE": (
        GPT,
        "model={type: gpt, shape: llama, hiddenSize: 60, heads: 4}",
        ["spec.model.heads: 4 gives heads the odd size 15, but RoPE rotates pairs; use 3 or 5"],
    ),
    "odd hiddenSize with RoPE": (
        GPT,
        "model={type: gpt, shape: llama, hiddenSize: 15, heads: 3}",
        ["spec.model.heads: 3 gives heads the odd size 5, but RoPE rotates pairs; make hiddenSize even"],
    ),
    "a width beyond the bound": (
        GPT,
        "model={type: gpt, hiddenSize: 9000000000000000001, heads: 7}",
        ["spec.model.hiddenSize: 9000000000000000001 is above 1000000; use at most 1000000"],
    ),
    "key and value heads": (
        GPT,
        "model.keyValueHeads=3",
        ["spec.model.keyValueHeads: 3 does not divide heads 4; use 1, 2 or 4"],
    ),
    "vocabulary smaller than bytes": (
        changed("data.type=text"),
        "model.vocabularySize=100",
        [
            "spec.model.vocabularySize: 100 is less than the 256 ids of the bytes tokenizer; "
            "use 256 or more, or remove it"
        ],
    ),
    "custom without factory": (
        GPT,
        "model={type: custom}",
        ["spec.model.factory: is empty; write package.module:callable"],
    ),
    "factory without colon": (
        GPT,
        "model={type: custom, factory: my.module.build}",
        ["spec.model.factory: 'my.module.build' is no import path; write package.module:callable"],
    ),
    "factory that is a file": (
        GPT,
        "model={type: custom, factory: 'my/module.py:build'}",
        ["spec.model.factory: 'my/module.py:build' is no import path; write package.module:callable"],
    ),
    "huggingface without folder": (
        GPT,
        "model={type: huggingface}",
        ["spec.model.path: is empty; write the local folder with config.json"],
    ),
    "synthetic tokens of no vocabulary": (
        GPT,
        "data={type: synthetic}",
        ["spec.model.vocabularySize: 0 takes it from the data, but synthetic data has none; write the number"],
    ),
    "synthetic vectors of no size": (
        MLP,
        "model={type: mlp}",
        [
            "spec.model.inputSize: 0 takes it from the data, but synthetic data has none; write the number",
            "spec.model.outputSize: 0 takes it from the data, but synthetic data has none; write the number",
        ],
    ),
    "gpt field on mlp": (MLP, "model.heads=2", ["spec.model.heads: 2 has no effect with model.type mlp; remove it"]),
    "gpt switch on mlp": (
        MLP,
        "model.tieEmbeddings=false",
        ["spec.model.tieEmbeddings: false has no effect with model.type mlp; remove it"],
    ),
    "mlp field on gpt": (
        GPT,
        "model.inputSize=2",
        ["spec.model.inputSize: 2 has no effect with model.type gpt; remove it"],
    ),
    "RoPE in gpt2": (
        GPT,
        "model.ropeTheta=500000.0",
        ["spec.model.ropeTheta: 500000.0 has no effect with model.shape gpt2; remove it"],
    ),
    "RoPE in an mlp, said once": (
        MLP,
        "model.ropeTheta=500000.0",
        ["spec.model.ropeTheta: 500000.0 has no effect with model.type mlp; remove it"],
    ),
    "arguments without factory": (
        GPT,
        "model.arguments={a: 1}",
        ["spec.model.arguments: has no effect with model.type gpt; remove it"],
    ),
    "pretrained gpt": (
        GPT,
        "model.pretrained=false",
        ["spec.model.pretrained: false has no effect with model.type gpt; remove it"],
    ),
    "vocabulary of a custom model on text": (
        changed("model={type: custom, factory: 'a:b'}", "data.type=text"),
        "model.vocabularySize=300",
        ["spec.model.vocabularySize: 300 has no effect with model.type custom and data.type text; remove it"],
    ),
    "sequence of vectors": (
        MLP,
        "data.sequenceLength=8",
        ["spec.data.sequenceLength: 8 has no effect with model.type mlp; remove it"],
    ),
    "path of synthetic data": (
        MLP,
        "data.path=/data/x",
        ["spec.data.path: '/data/x' has no effect with data.type synthetic; remove it"],
    ),
    "claim of synthetic data": (
        MLP,
        "data.claim=pile",
        ["spec.data.claim: 'pile' has no effect with data.type synthetic; remove it"],
    ),
    "held-out synthetic data": (
        MLP,
        "data.evaluation.path=/data/x",
        ["spec.data.evaluation.path: '/data/x' has no effect with data.type synthetic; remove it"],
    ),
    "tokenizer of tokens": (
        GPT,
        "data.tokenizer=/data/tokenizer.json",
        ["spec.data.tokenizer: '/data/tokenizer.json' has no effect with data.type tokens; remove it"],
    ),
    "field of text": (
        changed("data.type=text"),
        "data.textField=body",
        ["spec.data.textField: 'body' has no effect with data.type text; remove it"],
    ),
    "token type of text": (
        changed("data.type=text"),
        "data.tokenType=uint16",
        ["spec.data.tokenType: 'uint16' has no effect with data.type text; remove it"],
    ),
    "evaluation of nothing": (
        GPT,
        "data.evaluation={everySteps: 10}",
        ["spec.data.evaluation.everySteps: 10 has no effect without data.evaluation.path; remove it"],
    ),
}


@pytest.mark.parametrize(("base", "assignment", "lines"), CASES.values(), ids=CASES)
def test_the_misfit_is_named_with_its_fix(base: dict[str, Any], assignment: str, lines: list[str]) -> None:
    assert complaints(changed(assignment, base=base)) == lines


VALID = {
    "gpt on tokens": GPT,
    "mlp on synthetic vectors": MLP,
    "llama with grouped queries on text": changed(
        "model={type: gpt, shape: llama, heads: 4, keyValueHeads: 2, ropeTheta: 5.0e5}",
        "data={type: jsonl, path: a.jsonl, textField: body, tokenizer: t.json}",
    ),
    "custom on tensors": changed("model={type: custom, factory: 'a.b:c.d', arguments: {x: [1]}}", "data.type=tensors"),
    "huggingface on tokens": changed("model={type: huggingface, path: /models/x, pretrained: false}"),
    "gpt on synthetic tokens": changed("model.vocabularySize=64", "data={type: synthetic}"),
}


@pytest.mark.parametrize("manifest", VALID.values(), ids=VALID)
def test_what_fits_is_accepted(manifest: dict[str, Any]) -> None:
    assert complaints(manifest) == []
