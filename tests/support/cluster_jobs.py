"""Jobs for the tests on a cluster: small manifests, and waiting for what becomes of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

from adts_api.contract import LABEL_ATTEMPT, LABEL_INDEX, LABEL_JOB, LABEL_MANAGED_BY, MANAGED_BY

POLL_SECONDS = 0.1
PATIENCE = 90.0
"""For what takes seconds on a machine of its own."""
CHILDREN = "pods,services,configmaps,secrets,endpointslices"
"""Kinds of everything that comes to be because of a job without a gang scheduler."""

RUN_ON = "trap 'exit 143' TERM; sleep 3600 & wait"
"""Code of a pod that runs until it is told to stop: a shell that is process 1 would ignore SIGTERM."""


class Kubectl(Protocol):
    """Runs kubectl; its output. Raises where it fails."""

    def __call__(self, *arguments: str, stdin: str | None = None) -> str: ...


def manifest(name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A job."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "adts.dev/v1alpha1", "kind": "DistributedTraining", "metadata": metadata, "spec": spec}


def script(name: str, namespace: str, code: str, *, replicas: int = 2, image: str = "", **spec: Any) -> dict[str, Any]:
    """A job that runs a shell script in every pod: it starts in a moment, because it loads no torch."""
    workers = {"replicas": replicas, **spec.pop("workers", {})}
    whole = {"command": ["sh", "-c", code], "workers": workers, **spec}
    return manifest(name, namespace, whole | ({"image": image} if image else {}))


class Jobs:
    """The jobs of one namespace, through kubectl."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self._kubectl, self.namespace = kubectl, namespace

    def apply(self, *manifests: dict[str, Any]) -> None:
        """`kubectl apply`."""
        self._kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))

    def get(self, name: str) -> dict[str, Any]:
        """The job."""
        job: dict[str, Any] = json.loads(self._run("get", "dtrain", name, "-o", "json"))
        return job

    def status(self, name: str) -> dict[str, Any]:
        """Its status; empty where there is none yet."""
        status: dict[str, Any] = self.get(name).get("status", {})
        return status

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """One condition; empty where it is not set."""
        conditions = self.status(name).get("conditions", [])
        return next((it for it in conditions if it["type"] == kind), {})

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The pods of a job, older attempts first, by index."""
        pods = json.loads(self._run("get", "pods", "-l", f"{LABEL_JOB}={name}", "-o", "json"))["items"]
        return sorted(pods, key=lambda it: (attempt_of(it), int(it["metadata"]["labels"][LABEL_INDEX])))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events about a job."""
        events = json.loads(self._run("get", "events", "-o", "json"))["items"]
        return [it for it in events if it["involvedObject"]["name"] == name]

    def wait(self, name: str, phase: str, seconds: float) -> dict[str, Any]:
        """The status once the job is in a phase."""
        wait_for(lambda: self.status(name).get("phase") == phase, seconds, f"{name} {phase}", lambda: self.status(name))
        return self.status(name)

    def wait_for_condition(self, name: str, kind: str, reason: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """A condition once it has a reason."""
        is_so = lambda: self.condition(name, kind).get("reason") == reason  # noqa: E731  named for the call below
        wait_for(is_so, seconds, f"{name} {kind}: {reason}", lambda: self.status(name))
        return self.condition(name, kind)

    def wait_gone(self, name: str, seconds: float = PATIENCE) -> None:
        """Waits until neither the job nor anything of it is left."""
        wait_for(lambda: not self.exists(name), seconds, f"{name} gone")
        wait_for(lambda: not self.children(name), seconds, f"{name} leaves nothing", lambda: self.children(name))

    def exists(self, name: str) -> bool:
        """Whether the job is there."""
        return bool(self._run("get", "dtrain", name, "--ignore-not-found", "-o", "name"))

    def children(self, name: str) -> list[str]:
        """Everything that came to be because of a job, as `kind/name`."""
        selector = f"{LABEL_MANAGED_BY}={MANAGED_BY},{LABEL_JOB}={name}"
        ours = self._run("get", CHILDREN, "-l", selector, "-o", "name").split()
        slices = self._run("get", "endpointslices", "-l", f"kubernetes.io/service-name={name}", "-o", "name").split()
        return sorted({*ours, *slices})

    def output(self, pod: str) -> str:
        """What a pod printed."""
        return self._run("logs", pod)

    def execute(self, pod: str, code: str) -> str:
        """Runs shell code in a pod; what it printed."""
        return self._run("exec", pod, "--", "sh", "-c", code)

    def patch(self, name: str, spec: dict[str, Any]) -> None:
        """Changes the spec."""
        self._run("patch", "dtrain", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def delete(self, name: str) -> None:
        """Deletes the job and waits until it is gone."""
        self._run("delete", "dtrain", name, "--timeout=60s")

    def _run(self, *arguments: str) -> str:
        return self._kubectl("-n", self.namespace, *arguments)


def attempt_of(pod: dict[str, Any]) -> int:
    """The attempt a pod belongs to."""
    return int(pod["metadata"]["labels"][LABEL_ATTEMPT])


def wait_for(is_so: Callable[[], Any], seconds: float, what: str, otherwise: Callable[[], Any] = lambda: "") -> float:
    """Waits until something is so; the seconds it took. Raises AssertionError that shows `otherwise()`."""
    begin = time.monotonic()
    while not is_so():
        if time.monotonic() - begin > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what}\n{otherwise()}")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - begin
