"""Rules on `workers.template`, which the schema leaves open: what the generated pod keeps for itself.

The template is merged over that pod by the keys of lists, and a null removes a field, so every list that holds
something of ours must be one. The rest of a PodTemplateSpec is judged by the API server, in a dry run of the first pod.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adts_api.contract import CONTAINER, LABEL_JOB, LABEL_MANAGED_BY, RESERVED_ENV
from adts_api.errors import FieldError
from adts_api.schedulers import QUEUE_KEYS
from adts_api.v1alpha1 import Spec
from adts_api.wording import describe, show

TEMPLATE = "spec.workers.template"
LABEL_PREFIX = LABEL_JOB.partition("/")[0] + "/"

RESERVED_POD_FIELDS = {
    "restartPolicy": "is always Never",
    "hostname": "is the pod's name",
    "subdomain": "is the job's name",
    "terminationGracePeriodSeconds": "follows spec.runPolicy.gracePeriodSeconds",
    "schedulingGroup": "follows spec.scheduling.gang",
}
RESERVED_CONTAINER_FIELDS = ("command", "args")

POD_LISTS = {"containers": "name", "initContainers": "name", "volumes": "name"}
CONTAINER_LISTS = {"env": "name", "volumeMounts": "mountPath", "ports": "containerPort"}
"""Lists that the generated pod has items in, and the key that tells their items apart."""


def rule_template(spec: Spec) -> Iterator[FieldError]:
    """The template is a PodTemplateSpec that sets nothing of ours."""
    template = spec.workers.template
    for key in template:
        if key not in ("metadata", "spec"):
            yield FieldError(f"{TEMPLATE}.{key}", "unknown field", "a template has metadata and spec")
    if "metadata" in template:
        yield from metadata_errors(template["metadata"], f"{TEMPLATE}.metadata")
    if "spec" in template:
        yield from pod_errors(template["spec"], f"{TEMPLATE}.spec")


def metadata_errors(metadata: Any, path: str) -> Iterator[FieldError]:
    """Only labels and annotations, and none of ours."""
    if not isinstance(metadata, dict):
        yield FieldError(path, describe(metadata), "write a mapping with labels and annotations")
        return
    for kind, entries in metadata.items():
        if kind not in ("labels", "annotations"):
            yield FieldError(f"{path}.{kind}", "has no effect in a template", "remove it")
        elif not isinstance(entries, dict):
            yield FieldError(f"{path}.{kind}", describe(entries), "write a mapping of strings")
        else:
            for key, value in entries.items():
                here = f'{path}.{kind}["{key}"]'
                if key.startswith(LABEL_PREFIX) or key == LABEL_MANAGED_BY:
                    yield FieldError(here, "is reserved for the operator", "remove it")
                elif key in QUEUE_KEYS:
                    yield FieldError(here, "would queue each pod for itself", "set spec.scheduling.queue instead")
                elif not isinstance(value, str):
                    yield FieldError(here, describe(value), "write a string, in quotes")


def pod_errors(pod: Any, path: str) -> Iterator[FieldError]:
    """A PodSpec whose lists can be merged and which leaves the pod's identity alone."""
    if not isinstance(pod, dict):
        yield FieldError(path, describe(pod), "write a PodSpec")
        return
    for name, reason in RESERVED_POD_FIELDS.items():
        if name in pod:
            yield FieldError(f"{path}.{name}", f"{reason} and cannot be set", "remove it")
    for name, key in POD_LISTS.items():
        if name in pod:
            yield from list_errors(pod[name], f"{path}.{name}", key)
    for index, container in enumerate(items(pod.get("initContainers"))):
        if container.get("name") == CONTAINER:
            here = f"{path}.initContainers[{index}].name"
            yield FieldError(here, f"'{CONTAINER}' is the generated container", "use another name")
    for index, container in enumerate(items(pod.get("containers"))):
        if container.get("name") == CONTAINER:
            yield from trainer_errors(container, f"{path}.containers[{index}]")


def trainer_errors(container: dict[str, Any], path: str) -> Iterator[FieldError]:
    """The generated container keeps its command, its arguments and the contract's variables."""
    for name in RESERVED_CONTAINER_FIELDS:
        if name in container:
            yield FieldError(f"{path}.{name}", "starts the generated launcher and cannot be set", "remove it")
    for name, key in CONTAINER_LISTS.items():
        if name in container:
            yield from list_errors(container[name], f"{path}.{name}", key)
    for index, variable in enumerate(items(container.get("env"))):
        here = f"{path}.env[{index}]"
        if variable.get("name") in RESERVED_ENV:
            yield FieldError(f"{here}.name", f"{variable['name']} is set by the operator", "remove it")
        elif not isinstance(variable.get("value", ""), str):
            yield FieldError(f"{here}.value", describe(variable["value"]), "write a string, in quotes")


def list_errors(value: Any, path: str, key: str) -> Iterator[FieldError]:
    """A list of mappings, told apart by a key."""
    if not isinstance(value, list):
        yield FieldError(path, describe(value), f"write a list of items with {key}, or remove it")
        return
    seen = set()
    for index, item in enumerate(value):
        here = f"{path}[{index}]"
        identity = item.get(key) if isinstance(item, dict) else None
        if not isinstance(identity, (str, int)) or identity == "":
            yield FieldError(here, f"has no {key}", f"write {key}")
        elif identity in seen:
            yield FieldError(f"{here}.{key}", f"{show(identity)} is used twice", "use another")
        else:
            seen.add(identity)


def items(value: Any) -> list[dict[str, Any]]:
    """The items of a list that are mappings with hashable names, each at its place; others are empty."""
    entries = value if isinstance(value, list) else []
    return [entry if isinstance(entry, dict) and isinstance(entry.get("name"), str) else {} for entry in entries]
