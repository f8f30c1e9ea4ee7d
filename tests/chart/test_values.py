"""A mistake in the values is refused by Helm, with the place and what is allowed; and the schema is not too strict."""

from __future__ import annotations

from typing import Any

import pytest

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": ({"replica": 3}, "at '': additional properties 'replica' not allowed"),
    "misspelt-below": ({"image": {"tagg": "1"}}, "at '/image': additional properties 'tagg' not allowed"),
    "misspelt-deep": (
        {"metrics": {"serviceMonitor": {"on": True}}},
        "at '/metrics/serviceMonitor': additional properties 'on' not allowed",
    ),
    "text-for-a-number": ({"replicas": "two"}, "at '/replicas': got string, want integer"),
    "text-for-a-list": ({"watchNamespaces": "team-a"}, "at '/watchNamespaces': got string, want array"),
    "text-for-a-switch": ({"crds": {"enabled": "no"}}, "at '/crds/enabled': got string, want boolean"),
    "name-for-a-reference": (
        {"trainer": {"imagePullSecrets": ["registry"]}},
        "at '/trainer/imagePullSecrets/0': got string, want object",
    ),
    "unknown-choice": ({"log": {"level": "loud"}}, "at '/log/level': value must be one of 'debug', 'info', 'warning'"),
    "out-of-bounds": ({"reconcile": {"workers": 0}}, "at '/reconcile/workers': minimum: got 0, want 1"),
    "no-replica": ({"replicas": 0}, "at '/replicas': minimum: got 0, want 1"),
    "bad-namespace": ({"watchNamespaces": ["Team_A"]}, "at '/watchNamespaces/0': 'Team_A' does not match pattern"),
    "namespace-twice": ({"watchNamespaces": ["a", "a"]}, "at '/watchNamespaces': items at 0 and 1 are equal"),
    "bad-digest": ({"image": {"digest": "7"}}, "at '/image/digest': '7' does not match pattern"),
    "image-with-a-space": ({"trainer": {"image": "a b"}}, "at '/trainer/image': 'a b' does not match pattern"),
    "two-leaders": (
        {"leaderElection": {"enabled": False}},
        "replicas: 2 replicas would all act at once without leader election; "
        "set replicas=1 or leaderElection.enabled=true",
    ),
    "no-account": (
        {"serviceAccount": {"create": False}},
        "serviceAccount.name: is empty although serviceAccount.create is false; write the name of the account",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_refused_with_place_and_rule(helm: Any, chart: str, case: str) -> None:
    values, message = MISTAKES[case]
    answer = helm("template", "adts", chart, values=values)
    assert answer.returncode != 0
    assert message in answer.stderr


def test_the_chart_may_be_part_of_another(render: Any) -> None:
    assert render(**{"global": {"registry": "registry.example"}}) == render()
