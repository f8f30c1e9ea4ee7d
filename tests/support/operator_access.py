"""The operator as the chart installs it, but as a process of this machine: its account, the chart's rights, the audit.

Whatever a test does, no request of such an operator may be refused by RBAC: that is checked when it ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from cluster.harness.binaries import binaries
from support.cluster_jobs import Jobs
from support.operator_process import OperatorProcess

CHART = Path(__file__).parents[2] / "charts" / "distributed-training-operator"
RIGHTS = ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount")
TOKEN_SECONDS = 6 * 3600
SHELL_IMAGE = "docker.io/adts/operator:test"
"""Default image of the jobs: it has a shell and a Python, and every test cluster has it."""

Rule = tuple[str, str, str]
"""Group, resource with its subresource, verb."""


class Cluster(Protocol):
    """What is asked of a cluster."""

    kubeconfig: Path

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60, check: bool = True) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request of the audit log."""

    verb: str
    resource: str
    """With its subresource: `pods/log`."""
    group: str
    namespace: str
    name: str
    code: int
    path: str
    decision: str
    """`allow` or `forbid`: quota and Pod Security answer 403 too."""

    @property
    def is_dry_run(self) -> bool:
        return "dryRun=" in self.path

    @property
    def is_write(self) -> bool:
        """Whether it changed something, or tried to."""
        return self.verb in ("create", "update", "patch", "delete") and not self.is_dry_run

    @property
    def rule(self) -> Rule:
        return self.group, self.resource, self.verb


@dataclass(frozen=True, kw_only=True)
class Account:
    """A service account with the chart's rights."""

    user: str
    """As the audit log names it."""
    kubeconfig: Path
    rights: frozenset[Rule]
    audit_log: Path | None
    """None for a given cluster, whose log is out of reach."""

    def requests(self) -> list[Request]:
        """What was asked of the API server under this account, in the order of the answers."""
        if self.audit_log is None:
            return []
        with self.audit_log.open(encoding="utf-8") as lines:
            events = [json.loads(line) for line in lines if self.user in line]
        return [_request(it) for it in events if it["user"]["username"] == self.user]

    def forbidden(self) -> list[Request]:
        """What RBAC refused."""
        return [it for it in self.requests() if it.decision != "allow"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A running operator, and a namespace that it watches."""

    cluster: Cluster
    namespace: str
    operator: OperatorProcess
    account: Account
    jobs: Jobs


@contextmanager
def operating(
    cluster: Cluster,
    folder: Path,
    *,
    also: Sequence[str] = (),
    cluster_wide: bool = False,
    values: dict[str, Any] | None = None,
    **settings: str,
) -> Iterator[Place]:
    """Starts an operator with the rights of the chart in a new namespace, and removes both in the end.

    `also`: further namespaces to watch, which exist. `values`: of the chart. `settings`: as OperatorProcess has them.
    """
    with new_namespace(cluster, "adts-test") as namespace:
        watched = () if cluster_wide else (namespace, *also)
        with granted(cluster, folder, namespace, {**(values or {}), "watchNamespaces": list(watched)}) as account:
            ours = {"WATCH_NAMESPACES": ",".join(watched), "NAMESPACE": namespace, "TRAINER_IMAGE": SHELL_IMAGE}
            operator = OperatorProcess(account.kubeconfig, folder, **(ours | settings)).start()
            try:
                jobs = Jobs(cluster.kubectl, namespace)
                yield Place(cluster=cluster, namespace=namespace, operator=operator, account=account, jobs=jobs)
            finally:
                operator.stop()
            assert not account.forbidden(), "RBAC refused requests of the operator"


@contextmanager
def new_namespace(cluster: Cluster, prefix: str, labels: dict[str, str] | None = None) -> Iterator[str]:
    """A namespace of one test; its deletion is not waited for."""
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    metadata = {"name": name, "labels": labels or {}}
    _apply(cluster, [{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])
    # Before that no pod can be made in it.
    cluster.kubectl("-n", name, "wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    try:
        yield name
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@contextmanager
def granted(cluster: Cluster, folder: Path, namespace: str, values: dict[str, Any]) -> Iterator[Account]:
    """The rights of the chart with these values, for an account in `namespace`; the CRD too where it is not there."""
    release = f"operator-{namespace}"
    objects = render(release, namespace, values)
    ours = [it for it in objects if it["kind"] in RIGHTS and not _is_hook(it)]
    _install_crd(cluster, objects)
    _apply(cluster, ours)
    try:
        (account,) = (it["metadata"]["name"] for it in ours if it["kind"] == "ServiceAccount")
        token = cluster.kubectl("-n", namespace, "create", "token", account, f"--duration={TOKEN_SECONDS}s").strip()
        yield Account(
            user=f"system:serviceaccount:{namespace}:{account}",
            kubeconfig=_kubeconfig(cluster, folder / f"{namespace}.kubeconfig", token),
            rights=frozenset(_rights(ours, account)),
            audit_log=_audit_log(cluster),
        )
    finally:
        cluster.kubectl("delete", "-f", "-", "--ignore-not-found", stdin=_list(ours))


def render(release: str, namespace: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The chart's objects, by the real Helm."""
    helm = os.environ.get("ADTS_HELM") or str(binaries() / "helm")
    command = [helm, "template", release, str(CHART), "--namespace", namespace, "--values", "-"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [it for it in yaml.safe_load_all(done.stdout) if it is not None]


def _is_hook(thing: dict[str, Any]) -> bool:
    """Whether Helm makes it only for a test of the release."""
    return "helm.sh/hook" in (thing["metadata"].get("annotations") or {})


def _install_crd(cluster: Cluster, objects: Sequence[dict[str, Any]]) -> None:
    """Leaves one that is there alone: Helm may own it."""
    (crd,) = (it for it in objects if it["kind"] == "CustomResourceDefinition")
    name = crd["metadata"]["name"]
    if not cluster.kubectl("get", "crd", name, "--ignore-not-found", "-o", "name"):
        _apply(cluster, [crd])
        cluster.kubectl("wait", "crd", name, "--for=condition=Established", "--timeout=30s")


def _kubeconfig(cluster: Cluster, path: Path, token: str) -> Path:
    """That of the admin with the account's token instead of the admin's key."""
    config = yaml.safe_load(Path(cluster.kubeconfig).read_text())
    current = next(it["context"] for it in config["contexts"] if it["name"] == config["current-context"])
    for user in config["users"]:
        if user["name"] == current["user"]:
            user["user"] = {"token": token}
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


def _rights(objects: Sequence[dict[str, Any]], account: str) -> Iterator[Rule]:
    """Every verb that is bound to the account."""
    bindings = [it for it in objects if it["kind"].endswith("Binding")]
    bound = {it["roleRef"]["name"] for it in bindings if account in [who["name"] for who in it["subjects"]]}
    for role in objects:
        if role["kind"] in ("Role", "ClusterRole") and role["metadata"]["name"] in bound:
            for rule in role["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        yield from ((group, resource, verb) for verb in rule["verbs"])


def _request(event: dict[str, Any]) -> Request:
    what = event.get("objectRef", {})
    return Request(
        verb=event["verb"],
        resource="/".join(filter(None, (what.get("resource", ""), what.get("subresource", "")))),
        group=what.get("apiGroup", ""),
        namespace=what.get("namespace", ""),
        name=what.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        path=event["requestURI"],
        decision=event.get("annotations", {}).get("authorization.k8s.io/decision", ""),
    )


def _audit_log(cluster: Cluster) -> Path | None:
    path: Path | None = getattr(cluster, "audit_log", None)
    return path


def _apply(cluster: Cluster, objects: Sequence[dict[str, Any]]) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=_list(objects))


def _list(objects: Sequence[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
