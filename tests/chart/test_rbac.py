"""The operator's rights in every mode, compared with a table written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from adts_operator.leader import Leadership

GOLDEN = yaml.safe_load((Path(__file__).parent / "golden" / "rbac.yaml").read_text())

MODES: dict[str, dict[str, Any]] = {
    "cluster-wide": {},
    "watched-namespaces": {"watchNamespaces": ["team-a", "team-b"]},
    "roles-alone": {
        "watchNamespaces": ["team-a"],
        "crds": {"enabled": False},
        "userRoles": {"enabled": False},
    },
    "every-switch-on": {
        "gang": {"native": True, "volcano": True, "coscheduling": True},
        "progress": {"viaApiProxy": True},
    },
    "every-switch-off": {
        "gang": {"native": False},
        "userRoles": {"enabled": False},
        "replicas": 1,
        "leaderElection": {"enabled": False},
    },
    "rights-by-others": {"rbac": {"create": False}, "userRoles": {"enabled": False}},
}


def table(role: dict[str, Any]) -> dict[str, str]:
    """The rules of a role as rows: `<group> <resource>[ <name>]` -> verbs."""
    rows: dict[str, str] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", [""]):
                    row = f"{group or 'core'} {resource} {name}".strip()
                    assert row not in rows, f"{row} stands in two rules"
                    rows[row] = " ".join(rule["verbs"])
    return rows


def test_the_golden_table_covers_every_mode() -> None:
    assert set(GOLDEN) == set(MODES)


@pytest.mark.parametrize("mode", MODES)
def test_roles_hold_exactly_the_verbs_of_the_golden_table(render: Any, mode: str) -> None:
    roles = {key: table(it) for key, it in render(**MODES[mode]).items() if it["kind"] in ("Role", "ClusterRole")}
    assert roles == GOLDEN[mode]


@pytest.mark.parametrize("mode", MODES)
def test_every_role_but_those_of_users_is_bound_to_an_account_of_the_release(render: Any, mode: str) -> None:
    objects = render(**MODES[mode])
    bound = set()
    for key, binding in objects.items():
        if binding["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            role = key.replace("Binding/", "/")
            assert binding["roleRef"]["name"] == objects[role]["metadata"]["name"]
            assert binding["roleRef"]["kind"] == objects[role]["kind"] == binding["kind"].removesuffix("Binding")
            (subject,) = binding["subjects"]
            account = "adts-operator-test" if role.endswith("-test") else "adts-operator"
            assert subject == {"kind": "ServiceAccount", "name": account, "namespace": "adts-system"}
            bound.add(role)
    users = {key for key in GOLDEN[mode] if key.endswith(("-edit", "-view"))}
    assert bound == set(GOLDEN[mode]) - users


def test_with_watched_namespaces_the_operator_has_no_cluster_object(render: Any) -> None:
    kinds = {it["kind"] for it in render(**MODES["roles-alone"]).values()}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}


def test_the_rights_of_users_flow_into_admin_edit_and_view(render: Any) -> None:
    objects = render()
    aggregated = {
        name: {
            label.removeprefix("rbac.authorization.k8s.io/aggregate-to-")
            for label, value in objects[f"ClusterRole/adts-operator-{name}"]["metadata"]["labels"].items()
            if label.startswith("rbac.authorization.k8s.io/aggregate-to-") and value == "true"
        }
        for name in ("edit", "view")
    }
    assert aggregated == {"edit": {"admin", "edit"}, "view": {"view"}}


def test_the_lease_that_may_be_updated_is_the_one_the_operator_uses() -> None:
    (row,) = [row for row in GOLDEN["cluster-wide"]["Role/adts-operator-lease"] if row.count(" ") == 2]
    assert row.split()[2] == Leadership.__init__.__kwdefaults__["name"]


def test_a_given_account_is_used_and_not_created(render: Any) -> None:
    objects = render(serviceAccount={"create": False, "name": "theirs"})
    assert "ServiceAccount/adts-operator" not in objects
    assert objects["Deployment/adts-operator"]["spec"]["template"]["spec"]["serviceAccountName"] == "theirs"
    assert objects["ClusterRoleBinding/adts-operator"]["subjects"][0]["name"] == "theirs"
