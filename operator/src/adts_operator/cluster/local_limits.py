"""What a laptop cannot do for a pod: refused with every reason at once, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adts_api.contract import CONTAINER
from adts_api.errors import AdtsError, ConfigError, FieldError, ManifestError
from adts_api.manifest import set_value
from adts_api.topology import resolved_device, world_size
from adts_api.v1alpha1 import DistributedTraining
from adts_api.validate import parse
from adts_operator.cluster.machine import gpus
from adts_operator.core.build import resource

TEMPLATE = "spec.workers.template.spec"
GENERATED_VOLUMES = ("config", "token", "shm", "data", "checkpoints", "home", "temporary")


def check_template(job: DistributedTraining) -> None:
    """Raises ManifestError for what needs a cluster: sidecars, values from elsewhere, volumes that are not here."""
    errors: list[FieldError] = []
    pod = job.spec.workers.template.get("spec") or {}
    if pod.get("initContainers"):
        errors.append(_refused("initContainers", "need a cluster", "do their work before `adts run`"))
    for index, container in enumerate(pod.get("containers") or []):
        here = f"containers[{index}]"
        if container.get("name") != CONTAINER:
            errors.append(_refused(here, "is a sidecar, which needs a cluster", "start it beside `adts run`"))
        if container.get("envFrom"):
            errors.append(_refused(f"{here}.envFrom", "needs a cluster", "set the variables before `adts run`"))
        for number, variable in enumerate(container.get("env") or []):
            if "valueFrom" in variable:
                fix = f"write a value, or set {variable['name']} before `adts run` and remove it here"
                errors.append(_refused(f"{here}.env[{number}].valueFrom", "needs a cluster", fix))
    for index, volume in enumerate(pod.get("volumes") or []):
        if volume_folder(volume) is None:
            problem = f"{volume.get('name')} needs a cluster"
            errors.append(_refused(f"volumes[{index}]", problem, "use a hostPath of this machine"))
    if errors:
        raise ManifestError(errors)


def volume_folder(volume: Mapping[str, Any]) -> Path | None:
    """The folder of a hostPath volume that exists here; None for any other volume."""
    path = (volume.get("hostPath") or {}).get("path")
    return Path(path) if path and Path(path).is_dir() else None


def template_mounts(job: DistributedTraining) -> dict[str, Path]:
    """Mount paths of the template's hostPath volumes."""
    pod = job.spec.workers.template.get("spec") or {}
    volumes = {volume["name"]: folder for volume in pod.get("volumes") or [] if (folder := volume_folder(volume))}
    trainer: Mapping[str, Any] = next((it for it in pod.get("containers") or [] if it.get("name") == CONTAINER), {})
    return {
        mount["mountPath"]: volumes[mount["name"]]
        for mount in trainer.get("volumeMounts") or []
        if mount.get("name") in volumes
    }


def check_devices(job: DistributedTraining, environ: Mapping[str, str]) -> None:
    """Raises ConfigError where the job asks for more GPUs than there are, with the --set line that fits."""
    if resolved_device(job.spec) != "cuda":
        return
    here, asked = len(gpus(environ)), world_size(job.spec)
    if asked <= here:
        return
    workers = job.spec.workers
    raise ConfigError(
        f"spec.workers: {workers.replicas} x {workers.gpus_per_worker or 1} = {asked} GPUs asked for, this machine has "
        f"{here or 'none'}; add {_fitting(job, here)}"
    )


def _fitting(job: DistributedTraining, here: int) -> str:
    """The `--set` options of the largest gang that is valid on so many GPUs; else those of a run on the CPU."""
    manifest = resource(job)
    for gpus_asked in range(here, 0, -1):
        settings = [f"workers.gpusPerWorker={gpus_asked}"]
        if job.spec.workers.replicas > 1:
            settings.insert(0, "workers.replicas=1")
        if _is_valid(manifest, settings):
            return " ".join(f"--set {setting}" for setting in settings)
    return "--set training.device=cpu"


def _is_valid(manifest: dict[str, Any], settings: list[str]) -> bool:
    for setting in settings:
        manifest = set_value(manifest, setting)
    try:
        parse(manifest)
    except AdtsError:
        return False
    return True


def _refused(path: str, problem: str, fix: str) -> FieldError:
    return FieldError(f"{TEMPLATE}.{path}", problem, fix)
