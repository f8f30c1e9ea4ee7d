"""Gangs, queues, placement, and who manages the job."""

from __future__ import annotations

import pytest

from support.manifests import changed, complaints

LABELS = 'workers.template.metadata.labels["kueue.x-k8s.io/queue-name"]=team'
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
AFFINITY = f"workers.template.spec.affinity.podAffinity.{REQUIRED}=[]"

CASES: dict[str, tuple[list[str], list[str]]] = {
    "a scheduler nobody knows": (
        ["scheduling.gang=volcanoe"],
        ["spec.scheduling.gang: 'volcanoe' is unknown; did you mean volcano?"],
    ),
    "no name of a queue": (
        ["scheduling.queue=Team A"],
        ["spec.scheduling.queue: 'Team A' is no name of a queue; use at most 63 lower-case letters, digits, - and ."],
    ),
    "a queue too long for a label": (
        [f"scheduling.queue={'q' * 64}"],
        [
            f"spec.scheduling.queue: '{'q' * 55}...' is no name of a queue; "
            "use at most 63 lower-case letters, digits, - and ."
        ],
    ),
    "no name of a priority": (
        ["scheduling.priorityClassName=High"],
        [
            "spec.scheduling.priorityClassName: 'High' is no name of a PriorityClass; "
            "use lower-case letters, digits, - and ."
        ],
    ),
    "two priorities": (
        ["scheduling.priorityClassName=high", "workers.template.spec.priorityClassName=low"],
        [
            "spec.scheduling.priorityClassName: is said in spec.workers.template.spec.priorityClassName as well; "
            "remove one of them"
        ],
    ),
    "no label": (
        ["scheduling.topologyKey=my zone"],
        [
            "spec.scheduling.topologyKey: 'my zone' is no name of a node label; "
            "write one such as topology.kubernetes.io/zone"
        ],
    ),
    "two affinities": (
        ["scheduling.topologyKey=rack", AFFINITY],
        [
            "spec.scheduling.topologyKey: is replaced by the required podAffinity of spec.workers.template; "
            "remove it and add its rule there, or remove that one"
        ],
    ),
    "pods queued one by one": (
        [LABELS],
        [
            'spec.workers.template.metadata.labels["kueue.x-k8s.io/queue-name"]: would queue each pod for itself; '
            "set spec.scheduling.queue instead"
        ],
    ),
    "a gang of the user's own": (
        ["workers.template.spec.schedulingGroup={podGroupName: x}"],
        ["spec.workers.template.spec.schedulingGroup: follows spec.scheduling.gang and cannot be set; remove it"],
    ),
    "a manager without a domain": (
        ["runPolicy.managedBy=kueue"],
        ["spec.runPolicy.managedBy: 'kueue' is no name of a controller; write one such as kueue.x-k8s.io/multikueue"],
    ),
}


@pytest.mark.parametrize(("assignments", "lines"), CASES.values(), ids=CASES)
def test_the_refusal_names_field_rule_and_fix(assignments: list[str], lines: list[str]) -> None:
    assert complaints(changed(*assignments)) == lines


VALID = {
    "everything": [
        "scheduling={gang: coscheduling, queue: team-a, priorityClassName: high, "
        "topologyKey: topology.kubernetes.io/zone}"
    ],
    "a label without a prefix": ["scheduling.topologyKey=rack_1"],
    "preferred affinity beside a topology key": [
        "scheduling.topologyKey=rack",
        "workers.template.spec.affinity={podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}",
    ],
    "other annotations of Kueue": [
        'workers.template.metadata.annotations["kueue.x-k8s.io/podset-required-topology"]=rack'
    ],
    "another manager": ["runPolicy.managedBy=kueue.x-k8s.io/multikueue"],
    "ourselves": ["runPolicy.managedBy=adts.dev/operator"],
}


@pytest.mark.parametrize("assignments", VALID.values(), ids=VALID)
def test_what_a_user_may_set_is_accepted(assignments: list[str]) -> None:
    assert complaints(changed(*assignments)) == []
