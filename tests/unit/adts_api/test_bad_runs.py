"""The loop, the schedule, checkpoints, the run policy and the pod template."""

from __future__ import annotations

import pytest

from support.manifests import changed, complaints

SPEC = "spec.workers.template.spec"

CASES: dict[str, tuple[list[str], list[str]]] = {
    "warm-up longer than the run": (
        ["optimizer.schedule.warmupSteps=200"],
        ["spec.optimizer.schedule.warmupSteps: 200 is more than training.steps 100; use at most 100"],
    ),
    "decay after the end": (
        ["optimizer.schedule={type: wsd, warmupSteps: 10, decaySteps: 95}"],
        ["spec.optimizer.schedule.decaySteps: 95 is more than the 90 steps after the warm-up; use at most 90"],
    ),
    "decay of a constant": (
        ["optimizer.schedule={type: constant, decaySteps: 5}"],
        ["spec.optimizer.schedule.decaySteps: 5 has no effect with optimizer.schedule.type constant; remove it"],
    ),
    "momentum of adamw": (
        ["optimizer.momentum=0.5"],
        ["spec.optimizer.momentum: 0.5 has no effect with optimizer.name adamw; remove it"],
    ),
    "beta of sgd": (
        ["optimizer={name: sgd, beta2: 0.99}"],
        ["spec.optimizer.beta2: 0.99 has no effect with optimizer.name sgd; remove it"],
    ),
    "nothing to roll back to": (
        ["training.onDivergence=rollback"],
        [
            "spec.training.onDivergence: rollback needs checkpoints to go back to; "
            "set spec.checkpoint.everySteps, or use stop or skip"
        ],
    ),
    "spike at the mean": (
        ["training.lossSpikeFactor=1"],
        ["spec.training.lossSpikeFactor: 1.0 calls a loss at the mean a spike; use a factor above 1, or 0 for none"],
    ),
    "no checkpoint folder": (
        ["checkpoint.path=''"],
        ["spec.checkpoint.path: is empty; write a folder, or remove it for /checkpoints"],
    ),
    "checkpoints beside the claim": (
        ["checkpoint={claim: weights, path: /tmp/x}"],
        [
            "spec.checkpoint.path: '/tmp/x' is outside /checkpoints, where claim weights is mounted; "
            "use a folder below /checkpoints"
        ],
    ),
    "checkpoints out of the claim": (
        ["checkpoint={claim: weights, path: /checkpoints/../x}"],
        [
            "spec.checkpoint.path: '/checkpoints/../x' is outside /checkpoints, where claim weights is mounted; "
            "use a folder below /checkpoints"
        ],
    ),
    "bucket of objects": (
        ["checkpoint.path=gs://bucket/run"],
        ["spec.checkpoint.path: 'gs://bucket/run' is a URL, which is not supported yet; use a mounted folder"],
    ),
    "weights at a URL": (
        ["checkpoint.initializeFrom=hf://gpt2"],
        ["spec.checkpoint.initializeFrom: 'hf://gpt2' is a URL, which is not supported yet; use a mounted folder"],
    ),
    "weights beside a Hugging Face model": (
        ["model={type: huggingface, path: /data/gpt2}", "checkpoint.initializeFrom=/data/other"],
        [
            "spec.checkpoint.initializeFrom: '/data/other' has no effect with model.type huggingface, which loads the "
            "weights in spec.model.path; remove it"
        ],
    ),
    "export of a shape that GPT-2 has not": (
        ["model={type: gpt, heads: 4, keyValueHeads: 2}", "checkpoint.export=huggingface"],
        ["spec.checkpoint.export: huggingface has no GPT-2 with keyValueHeads 2; use safetensors"],
    ),
    "export of a model that is no language model": (
        ["model={type: custom, factory: 'a:b'}", "checkpoint.export=huggingface"],
        ["spec.checkpoint.export: huggingface has no model like model.type custom; use safetensors"],
    ),
    "no name of a claim": (
        ["data.claim=My_Claim"],
        ["spec.data.claim: 'My_Claim' is no name of a PersistentVolumeClaim; use lower-case letters, digits, - and ."],
    ),
    "start after the end": (
        ["runPolicy={activeDeadlineSeconds: 60, startDeadlineSeconds: 61}"],
        ["spec.runPolicy.startDeadlineSeconds: 61 is more than activeDeadlineSeconds 60; use at most 60"],
    ),
    "hang timeout": (
        ["runPolicy.hangTimeoutSeconds=60"],
        ["spec.runPolicy.hangTimeoutSeconds: 60 is not supported yet; remove it"],
    ),
    "command and model": (
        ["command=[torchrun, train.py]"],
        ["spec.command: excludes spec.model.type gpt; remove one of them"],
    ),
    "foreign block in the template": (
        ["workers.template.status={}"],
        ["spec.workers.template.status: unknown field; a template has metadata and spec"],
    ),
    "template without a spec": (["workers.template={spec: null}"], [f"{SPEC}: is null; write a PodSpec"]),
    "name of a template": (
        ["workers.template.metadata.name=x"],
        ["spec.workers.template.metadata.name: has no effect in a template; remove it"],
    ),
    "label of the operator": (
        ['workers.template.metadata.labels["adts.dev/job"]=x'],
        ['spec.workers.template.metadata.labels["adts.dev/job"]: is reserved for the operator; remove it'],
    ),
    "label that is a boolean": (
        ["workers.template.metadata.labels.gpu=true"],
        ['spec.workers.template.metadata.labels["gpu"]: true is a boolean; write a string, in quotes'],
    ),
    "restart policy": (
        ["workers.template.spec.restartPolicy=OnFailure"],
        [f"{SPEC}.restartPolicy: is always Never and cannot be set; remove it"],
    ),
    "host name": (
        ["workers.template.spec.hostname=x", "workers.template.spec.subdomain=y"],
        [
            f"{SPEC}.hostname: is the pod's name and cannot be set; remove it",
            f"{SPEC}.subdomain: is the job's name and cannot be set; remove it",
        ],
    ),
    "grace period of the pod": (
        ["workers.template.spec.terminationGracePeriodSeconds=5"],
        [
            f"{SPEC}.terminationGracePeriodSeconds: follows spec.runPolicy.gracePeriodSeconds and cannot be set; "
            "remove it"
        ],
    ),
    "containers in a mapping": (
        ["workers.template.spec.containers={}"],
        [f"{SPEC}.containers: is a mapping; write a list of items with name, or remove it"],
    ),
    "containers taken away": (
        ["workers.template.spec.containers=null"],
        [f"{SPEC}.containers: is null; write a list of items with name, or remove it"],
    ),
    "container without a name": (
        ["workers.template.spec.containers=[{image: x}]"],
        [f"{SPEC}.containers[0]: has no name; write name"],
    ),
    "containers of one name": (
        ["workers.template.spec.containers=[{name: a}, {name: a}]"],
        [f"{SPEC}.containers[1].name: 'a' is used twice; use another"],
    ),
    "init container trainer": (
        ["workers.template.spec.initContainers=[{name: trainer}]"],
        [f"{SPEC}.initContainers[0].name: 'trainer' is the generated container; use another name"],
    ),
    "command of the trainer": (
        ["workers.template.spec.containers=[{name: trainer, command: [x]}]"],
        [f"{SPEC}.containers[0].command: starts the generated launcher and cannot be set; remove it"],
    ),
    "reserved variable": (
        ["workers.template.spec.containers=[{name: a}, {name: trainer, env: [{name: WORLD_SIZE, value: '2'}]}]"],
        [f"{SPEC}.containers[1].env[0].name: WORLD_SIZE is set by the operator; remove it"],
    ),
    "environment taken away": (
        ["workers.template.spec.containers=[{name: trainer, env: null}]"],
        [f"{SPEC}.containers[0].env: is null; write a list of items with name, or remove it"],
    ),
    "variable that is a number": (
        ["workers.template.spec.containers=[{name: trainer, env: [{name: A, value: 1}]}]"],
        [f"{SPEC}.containers[0].env[0].value: 1 is an integer; write a string, in quotes"],
    ),
}


@pytest.mark.parametrize(("assignments", "lines"), CASES.values(), ids=CASES)
def test_the_refusal_names_field_rule_and_fix(assignments: list[str], lines: list[str]) -> None:
    assert complaints(changed(*assignments)) == lines


VALID = {
    "sidecars alone": ["workers.template.spec.containers=[{name: a, env: [{name: RANK, value: '1'}]}]"],
    "variable from a secret": [
        "workers.template.spec.containers=[{name: trainer, env: [{name: A, valueFrom: {fieldRef: {fieldPath: x}}}]}]"
    ],
    "labels": ['workers.template.metadata.labels["team.org/name"]=vision'],
    "weights in and out": [
        "model={type: gpt, shape: llama, heads: 4, keyValueHeads: 2}",
        "checkpoint={initializeFrom: /data/llama, export: huggingface}",
    ],
    "checkpoints in the claim": ["checkpoint={claim: weights, path: /checkpoints/run-1}"],
    "roll back": ["training.onDivergence=rollback", "checkpoint.everySteps=10"],
    "decay to the end": ["optimizer.schedule={type: linear, warmupSteps: 10, decaySteps: 90}"],
}


@pytest.mark.parametrize("assignments", VALID.values(), ids=VALID)
def test_what_a_user_may_set_is_accepted(assignments: list[str]) -> None:
    assert complaints(changed(*assignments)) == []
