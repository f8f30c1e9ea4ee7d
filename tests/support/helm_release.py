"""A release of the chart on a cluster: the real Helm installs the operator as pods, as a user does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.harness.access import Access
from cluster.harness.binaries import binaries
from cluster.harness.process import NO_PROXY
from support.cluster_jobs import PATIENCE, Jobs, script
from support.operator_access import CHART, Account, new_namespace

RELEASE = "adts"
NAME = f"{RELEASE}-operator"
"""Of the Deployment, its account and its roles."""
OPERATORS = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=operator"
RESTRICTED = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn")}
"""Labels of a namespace where only restricted pods may run."""
UNTIL_TOLD = "trap 'exit 143' TERM; until [ -e /tmp/end ]; do sleep 0.2; done; echo done"
TELL = "(sleep 1; touch /tmp/end) > /dev/null 2>&1 &"
"""It outlives the exec, which would fail if the container ended first."""


class Release:
    """Helm, for one release in one namespace."""

    def __init__(self, cluster: Access, namespace: str, image: str, home: Path) -> None:
        self.cluster, self.namespace = cluster, namespace
        repository, _, tag = image.rpartition(":")
        self.values: dict[str, Any] = {
            "image": {"repository": repository, "tag": tag},
            "trainer": {"image": image},
        }
        self._environment = {"HOME": str(home), "PATH": os.environ["PATH"], "KUBECONFIG": str(cluster.kubeconfig)}

    def helm(self, *arguments: str, check: bool = True, **values: Any) -> str:
        """Runs Helm; both of its outputs."""
        command = [str(binaries() / "helm"), *arguments, "--namespace", self.namespace, "--timeout", "150s"]
        stdin = None
        if arguments[0] in ("install", "upgrade"):
            command += ["--wait", "--values", "-"]
            stdin = json.dumps(self.values | values)
        done = subprocess.run(
            command,
            input=stdin,
            env=self._environment | NO_PROXY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout

    def install(self, **values: Any) -> str:
        """Also where the definition is there already: the cluster is shared, and an uninstall keeps it."""
        ours = ("--take-ownership", "--force-conflicts")
        return self.helm("install", RELEASE, str(CHART), *ours, **values)

    def pods(self) -> list[dict[str, Any]]:
        """The operator's pods that are not on their way out."""
        found = self.cluster.items("pods", self.namespace, OPERATORS)
        return [it for it in found if not it["metadata"].get("deletionTimestamp")]

    def leader(self) -> str:
        """Name of the pod that holds the Lease; empty where none does."""
        lease = self.cluster.get("lease", NAME, self.namespace) or {"spec": {}}
        return str(lease["spec"].get("holderIdentity") or "").partition("_")[0]

    def account(self) -> Account:
        """The operator's account, for what the audit log knows of it."""
        return Account(
            user=f"system:serviceaccount:{self.namespace}:{NAME}",
            kubeconfig=self.cluster.kubeconfig,
            rights=frozenset(),
            audit_log=getattr(self.cluster, "audit_log", None),
        )


@contextmanager
def installed(cluster: Access, image: str, home: Path, **values: Any) -> Iterator[Release]:
    """A release in a new namespace where only restricted pods may run."""
    with new_namespace(cluster, "adts-helm", RESTRICTED) as system:
        release = Release(cluster, system, image, home)
        release.install(**values)
        try:
            yield release
        finally:
            release.helm("uninstall", RELEASE, "--wait", "--ignore-not-found")


def start(jobs: Jobs, name: str) -> list[str]:
    """A job of two pods that run until they are told to end; the UIDs of its pods."""
    jobs.apply(script(name, jobs.namespace, UNTIL_TOLD, runPolicy={"gracePeriodSeconds": 5}))
    jobs.wait(name, "Running", PATIENCE)
    return uids(jobs, name)


def uids(jobs: Jobs, name: str) -> list[str]:
    return [pod["metadata"]["uid"] for pod in jobs.pods(name)]


def finish(jobs: Jobs, name: str) -> dict[str, Any]:
    """Tells the pods of a job to end; its last status."""
    for pod in jobs.pods(name):
        jobs.execute(pod["metadata"]["name"], TELL)
    return jobs.wait(name, "Succeeded", PATIENCE)
