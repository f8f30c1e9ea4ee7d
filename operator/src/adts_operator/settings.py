"""The operator's settings from its environment: read once, all errors at once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from adts_api.errors import ConfigError

PREFIX: Final = "ADTS_OPERATOR_"
"""Of every variable. Unknown names are not refused: Kubernetes adds some for a Service called `adts-operator`."""

ProgressBy = Literal["pod-ip", "api-proxy"]
LogLevel = Literal["debug", "info", "warning"]
LogFormat = Literal["json", "text"]

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One field a variable: WORKERS is read from ADTS_OPERATOR_WORKERS. An empty variable counts as unset."""

    watch_namespaces: tuple[str, ...] = ()
    """Namespaces whose jobs are run, separated by commas; empty for the whole cluster."""
    namespace: str = "default"
    """The operator's own namespace, where the Lease lives."""
    pod_name: str = ""
    """Name of the operator's pod, for the Lease and for events; empty for the machine's host name."""
    pod_uid: str = ""
    """UID of the operator's pod, the owner of the Lease, so that none stays behind; empty for no owner."""
    leader_election: bool = True
    """Whether to act only while holding the Lease. Without it there must be one replica."""
    health_port: int = 8080
    """Port of /healthz, /readyz and /metrics."""
    trainer_image: str = "adts/trainer:0.1.0"
    """Image of jobs that name none."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of pull secrets, separated by commas, for pods that use the image above."""
    api_rate: float = 600.0
    """Requests per second to the API server that are allowed in the long run."""
    api_burst: int = 1500
    """Requests allowed at once after a quiet time."""
    workers: int = 16
    """Jobs that are reconciled at the same time."""
    resync_seconds: float = 60.0
    """Seconds between two lists that correct what watches have missed."""
    progress_by: ProgressBy = "pod-ip"
    """How the lead pod of a job is asked: `pod-ip` directly, `api-proxy` through the API server."""
    job_metrics: bool = False
    """Whether step, loss and tokens per second of every running job are metrics: three series a job."""
    log_level: LogLevel = "info"
    """`debug`, `info` or `warning`."""
    log_format: LogFormat = "json"
    """`json`: an object a line; `text`: for people."""

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Settings:
        """Raises ConfigError that lists every bad variable with its value, the rule and the fix."""
        values: dict[str, Any] = {}
        problems: list[str] = []
        for field in fields(cls):
            variable = variable_name(field.name)
            text = environ.get(variable, "").strip()
            if not text:
                continue
            try:
                values[field.name] = _PARSERS[field.name](text)
            except ValueError as error:
                problems.append(f"{variable}: {text!r} {error}")
        if problems:
            raise ConfigError("\n".join(problems))
        return cls(**values)


def variable_name(field: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + field.upper()


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], int | float]:
    words = "a whole number" if kind is int else "a number"

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"is not {words}; use {low:g} to {high:g}") from None
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(f"is out of range; use {low:g} to {high:g}")
        return value

    return parse


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"is unknown; use {' or '.join(choices)}")
        return text

    return parse


def _boolean(text: str) -> bool:
    return _choice("true", "false")(text.lower()) == "true"


def _name(pattern: re.Pattern[str], words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"is not {words}; use lower-case letters, digits and '-'")
        return text

    return parse


def _names(pattern: re.Pattern[str], words: str) -> Callable[[str], tuple[str, ...]]:
    one = _name(pattern, words)

    def parse(text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one(part.strip()) for part in text.split(",") if part.strip()))

    return parse


def _image(text: str) -> str:
    if any(character.isspace() for character in text):
        raise ValueError("is not an image; use such as registry/name:tag")
    return text


_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "watch_namespaces": _names(LABEL, "a list of namespaces"),
    "namespace": _name(LABEL, "a namespace"),
    "pod_name": _name(SUBDOMAIN, "the name of a pod"),
    "pod_uid": str,
    "leader_election": _boolean,
    "health_port": _number(int, 1, 65535),
    "trainer_image": _image,
    "image_pull_secrets": _names(SUBDOMAIN, "a list of names of secrets"),
    "api_rate": _number(float, 1, 10_000),
    "api_burst": _number(int, 1, 100_000),
    "workers": _number(int, 1, 1000),
    "resync_seconds": _number(float, 5, 3600),
    "progress_by": _choice("pod-ip", "api-proxy"),
    "job_metrics": _boolean,
    "log_level": _choice("debug", "info", "warning"),
    "log_format": _choice("json", "text"),
}
