"""kopf's part: it watches our resource and hands over what it hears. No timers, daemons or finalizers, no patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import kopf

from adts_api.v1alpha1 import GROUP, PLURAL, VERSION
from adts_operator.controller import Controller

REQUEST_SECONDS = 15.0
WATCH_SECONDS = 300  # a whole number: kopf sends it as it is
SPARE_SECONDS = 30.0


class NoDiffBase(kopf.DiffBaseStorage):  # type: ignore[misc]  # kopf has types, but not for us: see pyproject.toml
    """kopf copies every object twice to find what changed in it; we compare what is with what should be instead."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class NoProgress(kopf.ProgressStorage):  # type: ignore[misc]
    """No handler of ours is repeated by kopf."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def registry() -> kopf.OperatorRegistry:
    """The handlers; not kopf's global registry, so that importing this module has no effect."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(log_in)
    kopf.on.startup(registry=handlers)(configure)
    kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)(take)
    return handlers


async def take(type: str | None, body: Mapping[str, Any], memo: Controller, **_: Any) -> None:  # noqa: A002  kopf's name
    """One event of one job; None for the initial list."""
    memo.take(type, body)


def log_in(**arguments: Any) -> kopf.ConnectionInfo | None:
    """As the operator's own connection: a service account in a pod, else the kubeconfig."""
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)


def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Bounds for everything that kopf waits for, and none of its own writes."""
    settings.posting.enabled = False
    settings.scanning.disabled = True  # needs no rights on CRDs and namespaces
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.connect_timeout = REQUEST_SECONDS
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + SPARE_SECONDS
    settings.watching.chunk_size = 250
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()


async def watch(controller: Controller, namespaces: Sequence[str]) -> None:
    """Runs kopf until it ends. It starts last: at its end it waits five seconds for every task made after its start."""
    await kopf.operator(
        registry=registry(),
        memo=controller,
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
    )
