"""The chart as the real Helm renders it: `helm` runs the command, `render` returns the objects by kind and name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.harness.binaries import binaries
from cluster.harness.machine import MachineError

CHART = Path(__file__).parents[2] / "charts" / "distributed-training-operator"
RELEASE, NAMESPACE = "adts", "adts-system"

Helm = Callable[..., subprocess.CompletedProcess[str]]
Objects = dict[str, dict[str, Any]]
Render = Callable[..., Objects]


@pytest.fixture(scope="session")
def helm_path() -> str:
    """Helm of ADTS_HELM, else of the test cluster's programs, which may first be built, else of PATH."""
    if explicit := os.environ.get("ADTS_HELM"):
        return explicit
    try:
        if shutil.which("go"):
            return str(binaries() / "helm")
        reason = "Go is not in PATH"
    except MachineError as error:
        reason = str(error)
    return shutil.which("helm") or pytest.skip(f"no Helm: {reason}; install Go or Helm, or set ADTS_HELM")


@pytest.fixture(scope="session")
def helm(helm_path: str, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Runs Helm without anything of the user's: no plug-ins, no repositories, no cluster."""
    home = tmp_path_factory.mktemp("helm")
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "KUBECONFIG": str(home / "none")}

    def run(*arguments: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [helm_path, *arguments, *(["--values", "-"] if values is not None else [])],
            input=json.dumps(values) if values is not None else None,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Renders the chart with values; objects outside the release's namespace have it in front: `team/Role/name`."""

    def run(chart: Path = CHART, **values: Any) -> Objects:
        answer = helm("template", RELEASE, str(chart), "--namespace", NAMESPACE, values=values)
        assert answer.returncode == 0, answer.stderr
        objects: Objects = {}
        for item in yaml.safe_load_all(answer.stdout):
            if item is not None:
                namespace = item["metadata"].get("namespace", NAMESPACE)
                key = f"{item['kind']}/{item['metadata']['name']}"
                objects[key if namespace == NAMESPACE else f"{namespace}/{key}"] = item
        return objects

    return run


@pytest.fixture(scope="session")
def chart() -> str:
    """Path of the chart."""
    return str(CHART)
