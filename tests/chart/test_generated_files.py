"""What is generated agrees with its source, and the check that guards it notices a change on either side."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from adts_operator.metrics import Metrics

CHECKOUT = Path(__file__).parents[2]
CHART = Path("charts/distributed-training-operator")
CRD = "distributedtrainings.adts.dev.yaml"
PLAIN = Path("deploy/operator.yaml")


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the generator, without any Helm but the one that is named."""
    environment = {key: value for key, value in os.environ.items() if key != "ADTS_HELM"} | {"PATH": ""}
    command = [sys.executable, str(CHECKOUT / "charts" / "generate.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the generator reads and writes."""
    shutil.copytree(CHECKOUT / CHART, tmp_path / CHART)
    for name in (f"crds/{CRD}", "docs/chart.md", str(PLAIN)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(CHECKOUT / name, tmp_path / name)
    return tmp_path


def test_the_generated_files_are_up_to_date(helm_path: str) -> None:
    answer = generate("--check", "--helm", helm_path)
    assert (answer.returncode, answer.stdout) == (0, "the chart is up to date\n"), answer.stdout + answer.stderr


CHANGES = (
    CHART / "values.yaml",
    CHART / "values.schema.json",
    CHART / "files" / CRD,
    CHART / "files" / "dashboard.json",
    Path("docs/chart.md"),
    Path("crds") / CRD,
    CHART / "Chart.yaml",
    CHART / "templates" / "deployment.yaml",
    CHART / "templates" / "_helpers.tpl",
    PLAIN,
)


@pytest.mark.parametrize("name", CHANGES, ids=str)
def test_the_check_notices_a_change_without_helm(checkout: Path, name: Path) -> None:
    path = checkout / name
    path.write_text(path.read_text() + "\n# by hand\n")
    answer = generate("--check", "--root", str(checkout))
    assert answer.returncode == 1
    assert answer.stdout.endswith("generated files differ; run `make chart`\n")


def test_a_write_repairs_what_the_check_noticed(checkout: Path, helm_path: str) -> None:
    for name in CHANGES:
        path = checkout / name
        path.write_text(path.read_text() + "\n# by hand\n")
    assert generate("--root", str(checkout), "--helm", helm_path).returncode == 0
    assert generate("--check", "--root", str(checkout)).returncode == 0


def test_a_new_template_needs_helm_and_says_so(checkout: Path) -> None:
    (checkout / CHART / "templates" / "more.yaml").write_text("{{/* nothing */}}\n")
    answer = generate("--root", str(checkout))
    assert answer.returncode == 2
    assert answer.stderr == (
        "deploy/operator.yaml: is old, and there is no Helm to render it; use --helm PATH or set ADTS_HELM\n"
    )


def test_a_template_that_does_not_render_is_one_message(checkout: Path, helm_path: str) -> None:
    (checkout / CHART / "templates" / "more.yaml").write_text("{{ nonsense }}\n")
    answer = generate("--root", str(checkout), "--helm", helm_path)
    assert answer.returncode == 2
    assert 'function "nonsense" not defined' in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_definition_in_the_chart_is_the_generated_one_and_is_kept(render: Any) -> None:
    rendered = render()["CustomResourceDefinition/distributedtrainings.adts.dev"]
    metadata = rendered.pop("metadata")
    expected = yaml.safe_load((CHECKOUT / "crds" / CRD).read_text())
    assert expected.pop("metadata") == {"name": metadata["name"]}
    assert rendered == expected
    assert metadata["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_braces_in_the_definition_are_text(render: Any, checkout: Path) -> None:
    path = checkout / CHART / "files" / CRD
    path.write_text(path.read_text().replace("kind: DistributedTraining\n", 'kind: "{{ fail `x` }}"\n', 1))
    rendered = render(checkout / CHART)["CustomResourceDefinition/distributedtrainings.adts.dev"]
    assert rendered["spec"]["names"]["kind"] == "{{ fail `x` }}"


def test_the_plain_manifests_are_the_chart_and_its_namespace(render: Any) -> None:
    rendered = render(crds={"enabled": False})
    plain = {f"{it['kind']}/{it['metadata']['name']}": it for it in yaml.safe_load_all((CHECKOUT / PLAIN).read_text())}
    namespace = plain.pop("Namespace/adts-system")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    for key, item in list(rendered.items()):
        if "helm.sh/hook" in item["metadata"].get("annotations", {}):
            del rendered[key]
        else:
            del item["metadata"]["labels"]["helm.sh/chart"], item["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    assert plain == rendered


def test_helm_finds_nothing_to_complain_about(helm: Any, chart: str) -> None:
    answer = helm("lint", "--strict", chart)
    assert answer.returncode == 0, answer.stdout


def test_chart_and_packages_have_one_version() -> None:
    chart = yaml.safe_load((CHECKOUT / CHART / "Chart.yaml").read_text())
    for package in ("crds", "operator", "trainer_image"):
        project = tomllib.loads((CHECKOUT / package / "pyproject.toml").read_text())["project"]
        assert project["version"] == chart["version"] == chart["appVersion"]


def test_the_dashboard_shows_only_metrics_and_labels_the_operator_has() -> None:
    metrics = Metrics(job_metrics=True)
    known = {family.name: family for family in metrics.registry.collect()}
    dashboard = json.loads((CHECKOUT / CHART / "files" / "dashboard.json").read_text())
    shown = set()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            names = re.findall(r"\b(?:adts|process)_[a-z_]+", target["expr"])
            assert names, target
            shown |= {re.sub(r"_(total|bucket)$", "", name) for name in names}
    assert shown - set(known) == set()
    assert {name for name in known if name.startswith("adts_")} - shown == set(), "metrics without a panel"
