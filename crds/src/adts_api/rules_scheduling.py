"""Rules on gang, queue and placement: names Kubernetes accepts, and one place to say each thing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from adts_api.errors import FieldError
from adts_api.rules_data import DNS_SUBDOMAIN
from adts_api.v1alpha1 import Spec
from adts_api.wording import show

LABEL_VALUE_LENGTH = 63
LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
MANAGER = re.compile(rf"{DNS_SUBDOMAIN.pattern}/[A-Za-z0-9._~/-]+")
MANAGER_LENGTH = 63  # as in a Job's spec.managedBy
LABEL_VALUE_FIX = f"use at most {LABEL_VALUE_LENGTH} lower-case letters, digits, - and ."


def rule_names(spec: Spec) -> Iterator[FieldError]:
    """Names of other objects, and of a node label."""
    scheduling = spec.scheduling
    if scheduling.queue and not is_name(scheduling.queue, LABEL_VALUE_LENGTH):
        yield FieldError("spec.scheduling.queue", f"{show(scheduling.queue)} is no name of a queue", LABEL_VALUE_FIX)
    if scheduling.priority_class_name and not is_name(scheduling.priority_class_name, 253):
        problem = f"{show(scheduling.priority_class_name)} is no name of a PriorityClass"
        yield FieldError("spec.scheduling.priorityClassName", problem, "use lower-case letters, digits, - and .")
    if scheduling.topology_key and not is_label(scheduling.topology_key):
        problem = f"{show(scheduling.topology_key)} is no name of a node label"
        yield FieldError("spec.scheduling.topologyKey", problem, "write one such as topology.kubernetes.io/zone")


def rule_manager(spec: Spec) -> Iterator[FieldError]:
    """Another controller has a name that cannot be a typing error for ours."""
    manager = spec.run_policy.managed_by
    if manager and (len(manager) > MANAGER_LENGTH or not MANAGER.fullmatch(manager)):
        problem = f"{show(manager)} is no name of a controller"
        yield FieldError("spec.runPolicy.managedBy", problem, "write one such as kueue.x-k8s.io/multikueue")


def rule_one_place(spec: Spec) -> Iterator[FieldError]:
    """What `scheduling` says is not said again, and replaced, by the template."""
    scheduling, template = spec.scheduling, spec.workers.template
    pod = mapping(mapping(template).get("spec"))
    if scheduling.priority_class_name and "priorityClassName" in pod:
        problem = "is said in spec.workers.template.spec.priorityClassName as well"
        yield FieldError("spec.scheduling.priorityClassName", problem, "remove one of them")
    affinity = mapping(mapping(pod.get("affinity")).get("podAffinity"))
    if scheduling.topology_key and "requiredDuringSchedulingIgnoredDuringExecution" in affinity:
        problem = "is replaced by the required podAffinity of spec.workers.template"
        yield FieldError("spec.scheduling.topologyKey", problem, "remove it and add its rule there, or remove that one")


def is_name(text: str, length: int) -> bool:
    """Whether text is a DNS subdomain of at most so many characters."""
    return len(text) <= length and bool(DNS_SUBDOMAIN.fullmatch(text))


def is_label(text: str) -> bool:
    """Whether text is a label's name, with or without a prefix."""
    prefix, slash, name = text.rpartition("/")
    return bool(LABEL_NAME.fullmatch(name)) and (not slash or is_name(prefix, 253))


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping; what else stands there is reported by the rules on the template."""
    return value if isinstance(value, dict) else {}
