"""The launcher's settings: the contract's environment, read once, every error reported at once."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adts_api.contract import CONTRACT_VERSION, LAUNCHER_PORT, MASTER_PORT, PERMANENT_EXIT_CODES, TERMINATION_FILE, Env
from adts_api.errors import ConfigError
from adts_trainer.launch import machine
from adts_trainer.launch.agreement import Limits

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
GRACE_SECONDS = 120.0
START_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class LauncherSettings:
    """Everything a launcher is told. Built from the environment by `read_settings`, or by hand in a test."""

    config_path: Path | None
    """The resource; None means the built-in quick start."""
    job_name: str = "default"
    job_uid: str = "local"
    attempt: int = 1
    pod_name: str = ""
    node_name: str = ""
    node_rank: int = 0
    nnodes: int = 1
    local_world_size: int = 1
    master_addr: str = "localhost"
    master_port: int = MASTER_PORT
    port: int = LAUNCHER_PORT
    """HTTP port of this launcher; 0 takes any free one."""
    lead: str = ""
    """host:port of the lead's launcher."""
    token: str = ""
    """What launchers show each other; empty where no token file is configured."""
    device: str = "cpu"
    threads: int = 1
    """Intra-op threads of one process."""
    limits: Limits = field(default_factory=Limits)
    termination_path: Path | None = None
    """Where the last status is left for who started this pod; None leaves it nowhere."""
    target: str = "adts_trainer.rank:run"
    """`package.module:function` that runs in every process."""
    preload: tuple[str, ...] = ("torch", "adts_trainer.rank")
    """What the fork server imports before the first fork."""

    @property
    def world_size(self) -> int:
        """Processes of the whole job."""
        return self.nnodes * self.local_world_size

    @property
    def is_lead(self) -> bool:
        """Whether the other launchers report to this one."""
        return self.node_rank == 0

    @property
    def bind_address(self) -> str | None:
        """Where the HTTP server listens: loopback for a job that does not leave this machine, else everywhere."""
        host = self.lead.rpartition(":")[0] or self.master_addr
        return "127.0.0.1" if host in LOOPBACK else None


class _Reader:
    """Takes variables one by one and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.errors: list[str] = []

    def text(self, name: str, default: str | None = None) -> str:
        value = self._environ.get(name, "")
        if not value and default is None:
            self.errors.append(f"{name}: is not set; the operator and `adts run` set it for every pod")
        return value or default or ""

    def integer(self, name: str, default: int | None = None, *, low: int = 0, high: int = 2**31) -> int:
        text = self.text(name, None if default is None else str(default))
        return int(self._number(name, text, int, low, high, "a whole number")) if text else low

    def seconds(self, name: str, default: float) -> float:
        return self._number(name, self.text(name, str(default)), float, 0.1, 1e9, "a number of seconds")

    def _number(self, name: str, text: str, kind: Callable[[str], float], low: float, high: float, what: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            self.errors.append(f"{name}: {text!r} is not {what}; write digits")
            return low
        if not low <= value <= high:
            self.errors.append(f"{name}: {text} is out of range; use {low:g} to {high:g}")
            return low
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        if value not in allowed:
            self.errors.append(f"{name}: {value!r} is not known; use {' or '.join(allowed)}")
        return value

    def address(self, name: str, default: str | None) -> str:
        value = self.text(name, default)
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdigit() and 0 < int(port) < 65536):
            self.errors.append(f"{name}: {value!r} is not host:port; write such as train-0-1.train:{LAUNCHER_PORT}")
        return value

    def secret(self, name: str) -> str:
        path = self._environ.get(name, "")
        if not path:
            return ""
        try:
            token = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            self.errors.append(f"{name}: {path} cannot be read ({error}); mount the job's token there")
            return ""
        if not token:
            self.errors.append(f"{name}: {path} is empty; mount the job's token there")
        return token


def read_settings(environ: Mapping[str, str]) -> LauncherSettings:
    """The settings of the contract's environment. Raises ConfigError that names every variable that is wrong."""
    reader = _Reader(environ)
    settings = _pod(reader, environ) if environ.get(Env.CONFIG) else _quick_start(reader, environ)
    if reader.errors:
        raise ConfigError("\n".join(reader.errors))
    return settings


def _pod(reader: _Reader, environ: Mapping[str, str]) -> LauncherSettings:
    """A pod of the operator or of `adts run`."""
    version = reader.integer(Env.CONTRACT, low=1)
    if abs(version - CONTRACT_VERSION) > 1:
        reader.errors.append(
            f"{Env.CONTRACT}: {version} is more than one apart from this trainer's {CONTRACT_VERSION}; "
            "use an operator and an image of neighbouring releases"
        )
    path = Path(environ[Env.CONFIG])
    if not path.is_file():
        reader.errors.append(f"{Env.CONFIG}: {path} is not a file; mount the resource there")
    nnodes, local = reader.integer(Env.NNODES, low=1), reader.integer(Env.LOCAL_WORLD_SIZE, low=1)
    node_rank = reader.integer(Env.NODE_RANK)
    world = reader.integer(Env.WORLD_SIZE, low=1)
    if not reader.errors and world != nnodes * local:
        reader.errors.append(
            f"{Env.WORLD_SIZE}: {world} is not {Env.NNODES} x {Env.LOCAL_WORLD_SIZE} = {nnodes} x {local}; "
            f"use {nnodes * local}"
        )
    if not reader.errors and node_rank >= nnodes:
        reader.errors.append(f"{Env.NODE_RANK}: {node_rank} is out of range; use 0 to {nnodes - 1}")
    port = reader.integer(Env.PORT, LAUNCHER_PORT, high=65535)
    return LauncherSettings(
        config_path=path,
        job_name=reader.text(Env.JOB_NAME),
        job_uid=reader.text(Env.JOB_UID),
        attempt=reader.integer(Env.ATTEMPT, low=1),
        pod_name=reader.text(Env.POD_NAME, "pod"),
        node_name=reader.text(Env.NODE_NAME, "local"),
        node_rank=node_rank,
        nnodes=nnodes,
        local_world_size=local,
        master_addr=reader.text(Env.MASTER_ADDR),
        master_port=reader.integer(Env.MASTER_PORT, low=1, high=65535),
        port=port,
        lead=reader.address(Env.LEAD, None if nnodes > 1 else f"localhost:{port or LAUNCHER_PORT}"),
        token=reader.secret(Env.TOKEN_FILE),
        device=reader.choice(Env.DEVICE, ("cpu", "cuda"), "cpu"),
        threads=_threads(reader, local),
        limits=_limits(reader),
        termination_path=_termination_path(environ),
    )


def _quick_start(reader: _Reader, environ: Mapping[str, str]) -> LauncherSettings:
    """No manifest: the built-in job on this machine, one process per device; the CPU is one device."""
    if environ.get(Env.NNODES, "1") != "1":
        reader.errors.append(f"{Env.CONFIG}: is not set; {Env.NNODES} {environ[Env.NNODES]} needs a manifest")
    devices = machine.cuda_devices(environ) if machine.torch_has_cuda() else 0
    device = reader.choice(Env.DEVICE, ("cpu", "cuda"), "cuda" if devices else "cpu")
    local = reader.integer(Env.LOCAL_WORLD_SIZE, devices if device == "cuda" and devices else 1, low=1)
    return LauncherSettings(
        config_path=None,
        job_uid=secrets.token_hex(8),
        pod_name="default-0-1",
        node_name="local",
        local_world_size=local,
        master_addr=reader.text(Env.MASTER_ADDR, "localhost"),
        master_port=reader.integer(Env.MASTER_PORT, MASTER_PORT, low=1, high=65535),
        port=reader.integer(Env.PORT, 0, high=65535),
        lead="localhost:0",
        device=device,
        threads=_threads(reader, local),
        limits=_limits(reader),
    )


def _threads(reader: _Reader, processes: int) -> int:
    """The process's share of the cores; told by `adts run`, whose pods share one machine."""
    return reader.integer(Env.THREADS, max(1, machine.available_cores() // processes), low=1, high=4096)


def _termination_path(environ: Mapping[str, str]) -> Path | None:
    """The kubelet makes the default file; on a laptop there is none."""
    path = Path(environ.get(Env.TERMINATION_FILE) or TERMINATION_FILE)
    return path if Env.TERMINATION_FILE in environ or path.exists() else None


def _limits(reader: _Reader) -> Limits:
    """The launcher itself needs a moment to leave before the kubelet kills it."""
    grace = reader.seconds(Env.GRACE, GRACE_SECONDS)
    return Limits(
        start_seconds=reader.seconds(Env.START_TIMEOUT, START_SECONDS),
        drain_seconds=max(0.5 * grace, grace - 5.0),
        permanent=frozenset(PERMANENT_EXIT_CODES),
    )
