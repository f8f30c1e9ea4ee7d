"""Which cluster a command talks to, and what it says where that does not work: one message with a fix."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from adts_api.errors import AdtsError, ConfigError
from adts_operator.cluster.api import Api, ApiError

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
INSTALL = "helm install adts charts/distributed-training-operator -n adts-system --create-namespace --wait"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A namespace of a cluster, as the command line names it."""

    namespace: str
    kubeconfig: str | None = None
    """One file or several with `:` between them; None inside a pod."""
    context: str | None = None
    flags: str = ""
    """What the user typed to get here, for the commands that we suggest: ` -n team-a`."""
    program: str = "adts"
    """The program's name: `adts` or `kubectl dtrain`."""

    def command(self, words: str, *, program: str = "") -> str:
        """A command line that goes to the same place."""
        return f"{program or self.program} {words}{self.flags}"


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """-n, --kubeconfig and --context; the command gets them together as `target`."""

    @click.option("-n", "--namespace", metavar="NAME", help="Namespace; without it the one of the context.")
    @click.option("--kubeconfig", metavar="FILE", help="Without it KUBECONFIG, ~/.kube/config, or the pod's account.")
    @click.option("--context", "cluster", metavar="NAME", help="Context of the kubeconfig; without it the current one.")
    @functools.wraps(command)
    def with_target(
        *args: Any, namespace: str | None, kubeconfig: str | None, cluster: str | None, **options: Any
    ) -> Any:
        return command(*args, target=find_target(namespace, kubeconfig, cluster), **options)

    return with_target


def find_target(namespace: str | None, kubeconfig: str | None, context: str | None) -> Target:
    """The target of these options. Raises ConfigError where they name no cluster."""
    paths = kubeconfig or os.environ.get("KUBECONFIG") or ""
    default = Path.home() / ".kube" / "config"
    if not paths and default.is_file():
        paths = str(default)
    if paths:
        default_namespace = context_namespace(paths, context)
    elif "KUBERNETES_SERVICE_HOST" in os.environ and context is None:
        default_namespace = POD_NAMESPACE.read_text().strip() if POD_NAMESPACE.is_file() else "default"
    else:
        raise ConfigError(f"no cluster is configured: there is no {default}; set KUBECONFIG or use --kubeconfig")
    given = {"-n": namespace, "--kubeconfig": kubeconfig, "--context": context}
    root = click.get_current_context().find_root()
    return Target(
        namespace=namespace or default_namespace,
        kubeconfig=paths or None,
        context=context,
        flags="".join(f" {name} {shlex.quote(value)}" for name, value in given.items() if value),
        program=root.info_name or "adts",
    )


def context_namespace(paths: str, context: str | None) -> str:
    """Namespace of a context of the kubeconfig. Raises ConfigError where the files are none, or lack the context."""
    files = [Path(it).expanduser() for it in paths.split(os.pathsep) if it]
    found = [read_kubeconfig(file) for file in files if file.is_file()]
    if not found:
        raise ConfigError(f"no cluster is configured: {paths}: no such file; set KUBECONFIG or use --kubeconfig")
    contexts = {it["name"]: it.get("context") or {} for one in reversed(found) for it in one.get("contexts") or []}
    name = context or next((one["current-context"] for one in reversed(found) if one.get("current-context")), "")
    if name not in contexts:
        asked = f"--context {context}" if context else f"current-context {name!r}"
        raise ConfigError(
            f"{asked}: is not in {paths}; use --context with one of: {', '.join(contexts) or 'none there'}"
        )
    return contexts[name].get("namespace") or "default"


def read_kubeconfig(file: Path) -> dict[str, Any]:
    """One file, checked as far as the client library would stumble over it. Raises ConfigError."""
    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{file}: cannot be read as a kubeconfig: {why}; use another with --kubeconfig") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: is no kubeconfig; name one with KUBECONFIG or --kubeconfig")
    return found


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Api]:
    """A connection; what the API server refuses becomes a message that says what to do."""
    try:
        api = await Api.connect(kubeconfig=target.kubeconfig, context=target.context)
        try:
            yield api
        finally:
            await api.close()
    except ApiError as error:
        raise explain(error, target) from error


def explain(error: ApiError, target: Target) -> AdtsError:
    """The same in words for people who use the cluster. What nobody expected stays as it is."""
    match error.status:
        case 0 if error.reason == "Unreachable":
            probe = target.command("cluster-info", program="kubectl")
            return ConfigError(f"{error.message}; see `{probe}`, or choose another cluster with --context")
        case 0:
            return ConfigError(error.message)
        case 401:
            return ConfigError(f"the cluster does not accept your credentials: {error.message}; log in again")
        case 403:
            fix = "ask for the ClusterRole `view` there, or choose a namespace with -n"
            return ConfigError(f"{error.message}; {fix}")
        case 404 if "name" not in error.details:
            return ConfigError(f"the cluster knows no DistributedTraining, the operator is not installed: {INSTALL}")
        case 404:
            known = target.command("status")
            name = error.details["name"]
            return ConfigError(f"no job {name} in the namespace {target.namespace}; `{known}` lists those that exist")
        case _:
            return error
