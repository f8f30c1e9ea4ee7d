"""Pods as processes of this machine: the launcher where a pod would run it, folders for mounts, 127.0.0.1 for names."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from adts_api.contract import CONFIG_FILE, CONTAINER, LABEL_ATTEMPT, LABEL_INDEX
from adts_api.v1alpha1 import DistributedTraining
from adts_operator.cluster import machine, processes
from adts_operator.cluster.folder import JobFolder, storage_errors, write_atomically
from adts_operator.cluster.local_environment import free_ports, pod_environment
from adts_operator.cluster.local_limits import template_mounts
from adts_operator.cluster.local_pod import LocalPod
from adts_operator.cluster.mounts import localize
from adts_operator.cluster.processes import ProcessId
from adts_operator.core.observed import Observed
from adts_operator.core.plan import Plan
from adts_operator.core.pod import COMMAND

LAUNCHER = [sys.executable, *COMMAND[1:]]
"""What runs for a pod that names no command of its own."""

SILENCE_SECONDS = 30.0
SURVIVOR_GRACE_SECONDS = 10.0
POLL_SECONDS = 0.05


class LocalCluster:
    """The pods of one job on this machine. A `Cluster` for the reconciler."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder
        self._pods: dict[str, LocalPod] = {}
        self._ports: dict[int, list[int]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no process of the job lives."""
        return not any(pod.is_alive for pod in self._pods.values())

    async def observe(self, job: DistributedTraining) -> Observed:
        """Notes what ended, kills what was deleted and stayed, asks the lead. Old pods vanish once they are dead."""
        for pod in self._pods.values():
            pod.refresh()
        newest = max((pod.attempt for pod in self._pods.values()), default=0)
        self._pods = {name: pod for name, pod in self._pods.items() if pod.is_alive or pod.attempt == newest}
        lead = next((pod for pod in self._pods.values() if pod.index == 0 and pod.attempt == newest), None)
        if lead is not None and lead.is_alive:
            await lead.ask()
        return Observed(
            pods=tuple(pod.view() for pod in self._pods.values()),
            lead=lead.status if lead else None,
            lead_is_silent=lead is not None and lead.silent_seconds > SILENCE_SECONDS and not job.spec.command,
            children=frozenset({f"Service/{job.metadata.name}"}),
        )

    async def try_out(self, job: DistributedTraining, objects: Sequence[dict[str, Any]]) -> None:
        """Nothing is refused here that was not refused before the run began, see local_limits."""

    async def apply(self, job: DistributedTraining, plan: Plan) -> None:
        """Stops and starts processes. New pods wait for older ones, which may still hold memory and devices."""
        for deletion in plan.delete:
            pod = self._pods.get(deletion.name)
            if pod is not None and pod.is_alive:
                pod.delete(deletion.grace_seconds)
        for it in plan.apply:
            if it["kind"] == "ConfigMap":
                self._write_config(job, it)
            elif it["kind"] == "Secret" and not self._folder.token.exists():
                write_atomically(self._folder.token, secrets.token_hex(32), mode=0o600)
            elif it["kind"] == "Pod" and not self._waits(it):
                self._start(job, it)

    def kill_all(self) -> None:
        """Ends every process now; nothing is saved."""
        for pod in self._pods.values():
            pod.kill()

    def kill_survivors(self, say: Callable[[str], None]) -> None:
        """Ends the processes of a run that was killed: they may save, because nobody stands in for them yet."""
        survivors = [it for it in self._recorded() if processes.is_alive(it)]
        if survivors:
            say(f"ending what a killed run left behind: processes {', '.join(str(it.pid) for it in survivors)}")
        for survivor in survivors:
            processes.terminate(survivor)
        deadline = time.monotonic() + SURVIVOR_GRACE_SECONDS
        while any(processes.is_alive(it) for it in survivors) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        for survivor in survivors:  # only these: the number of a group that is gone may be somebody else's by now
            processes.kill_group(survivor)
        self._folder.processes.unlink(missing_ok=True)

    def _waits(self, pod: dict[str, Any]) -> bool:
        attempt = int(pod["metadata"]["labels"][LABEL_ATTEMPT])
        return any(it.is_alive and it.attempt < attempt for it in self._pods.values())

    def _start(self, job: DistributedTraining, manifest: dict[str, Any]) -> None:
        name, labels = manifest["metadata"]["name"], manifest["metadata"]["labels"]
        index, attempt = int(labels[LABEL_INDEX]), int(labels[LABEL_ATTEMPT])
        container = next(it for it in manifest["spec"]["containers"] if it["name"] == CONTAINER)
        ports = self._ports.setdefault(attempt, []) or free_ports(1 + job.spec.workers.replicas)
        self._ports[attempt] = ports
        termination = self._folder.termination(name).absolute()
        environment = pod_environment(
            container["env"],
            index=index,
            ports=ports,
            mounts=self._mounts(job, attempt),
            termination=termination,
            share=machine.share(job, index, os.environ),
            outer=os.environ,
        )
        command = LAUNCHER if container["command"] == COMMAND else container["command"]
        pod = LocalPod(name, index, attempt, ports[1 + index], self._folder.log(name), termination)
        with storage_errors(pod.log):
            pod.log.touch()
        pod.start(command, environment)
        self._pods[name] = pod
        self._record()

    def _write_config(self, job: DistributedTraining, config_map: dict[str, Any]) -> None:
        """The ConfigMap as a file, with the paths of this machine."""
        attempt = int(config_map["metadata"]["labels"][LABEL_ATTEMPT])
        resource = localize(yaml.safe_load(config_map["data"][CONFIG_FILE]), self._mounts(job, attempt))
        folder = self._folder.config(attempt)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / CONFIG_FILE, yaml.safe_dump(resource, sort_keys=False, allow_unicode=True))

    def _mounts(self, job: DistributedTraining, attempt: int) -> dict[str, Path]:
        mounts = self._folder.mounts(attempt) | template_mounts(job)
        return {mount: folder.absolute() for mount, folder in mounts.items()}

    def _record(self) -> None:
        """Who to look for if this process is killed."""
        living = [asdict(pod.id) for pod in self._pods.values() if pod.is_alive]
        write_atomically(self._folder.processes, json.dumps(living))

    def _recorded(self) -> list[ProcessId]:
        try:
            return [ProcessId(**it) for it in json.loads(self._folder.processes.read_text())]
        except (FileNotFoundError, ValueError, TypeError):
            return []
