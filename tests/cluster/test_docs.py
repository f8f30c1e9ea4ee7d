"""What the documentation tells users to type, typed: every block marked `sh` of the pages that install and train.

Nothing is changed in the commands but the names of the images. Blocks marked `console` are only read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from cluster.harness.access import Access
from cluster.harness.binaries import binaries
from cluster.harness.cluster import Cluster
from cluster.harness.process import NO_PROXY
from support.doc_pages import CHECKOUT, Block, page, pages
from support.operator_access import new_namespace

INSTALL, FIRST_JOB = "docs/install.md", "docs/first-job.md"
STORY = (
    (INSTALL, "With Helm"),
    (FIRST_JOB, ""),
    (INSTALL, "Upgrade"),
    (INSTALL, "Uninstall"),
    (INSTALL, "Without Helm"),
)
"""Pages and sections in the order in which a user comes to them; no section means all."""
CLAIMS = ("training-data", "training-checkpoints")
USER = 65532
"""Of the trainer's image."""
BLOCK_SECONDS = 600
LEFT_OUT = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
"""Where `make test` runs us, the documented `make` must not take part in it."""


def story() -> list[Block]:
    """The blocks to run, in order."""
    return [
        block
        for name, section in STORY
        for block in page(name).blocks
        if block.language == "sh" and section in ("", block.section)
    ]


@pytest.fixture
def namespace(own_cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """The user's namespace, with storage behind the claims: both nodes see the same folders of this machine."""
    tmp_path.chmod(0o755)
    with new_namespace(own_cluster, "adts-docs") as name:
        for claim in CLAIMS:
            folder = tmp_path / claim
            folder.mkdir()
            os.chown(folder, USER, USER)
            own_cluster.apply(json.dumps(volume(f"{name}-{claim}", folder, {"name": claim, "namespace": name})))
        yield name
        for claim in CLAIMS:
            own_cluster.kubectl("delete", "pv", f"{name}-{claim}", "--wait=false")


def volume(name: str, folder: Path, claim: dict[str, str]) -> dict[str, object]:
    """A PersistentVolume on a folder, kept for one claim."""
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "hostPath": {"path": str(folder)},
        "claimRef": claim,
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def shell(own_cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Runs shell code in the checkout as a user whose cluster has no operator yet; what it printed."""
    config = tmp_path / "kubeconfig"
    config.write_text(own_cluster.kubeconfig.read_text())
    config.chmod(0o600)
    Access(config, binaries() / "kubectl").kubectl("config", "set-context", "--current", f"--namespace={namespace}")
    own_cluster.kubectl("delete", "crd", "distributedtrainings.adts.dev", "--ignore-not-found", "--timeout=50s")
    environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT} | NO_PROXY
    environment |= {f"HELM_{what}_HOME": str(tmp_path / "helm" / what) for what in ("CACHE", "CONFIG", "DATA")}
    environment["KUBECONFIG"] = str(config)
    environment["PATH"] = f"{Path(sys.executable).parent}:{binaries()}:{os.environ['PATH']}"

    def run(code: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{code}\n{done.stdout}"
        return done.stdout

    yield run
    run("helm uninstall adts -n adts-system --ignore-not-found --wait")
    run("kubectl delete -f deploy/operator.yaml --ignore-not-found --timeout=90s")


@pytest.mark.timeout(1500)
def test_the_documented_commands_work(
    shell: Callable[[str], str], operator_image: str, trainer_image: str, measured: Callable[[str], None]
) -> None:
    begin = time.monotonic()
    for block in story():
        print(f"--- {block.page}, {block.section}\n{shell(with_images(block.text, operator_image, trainer_image))}")
    measured(f"the commands of {INSTALL} and {FIRST_JOB}, one after the other: {time.monotonic() - begin:.0f} s")


def with_images(text: str, operator: str, trainer: str) -> str:
    """Commands with the names that the images have here."""
    repository, _, tag = operator.rpartition(":")
    for documented, ours in {
        "registry.example/adts/operator,image.tag=0.1.0": f"{repository},image.tag={tag}",
        "registry.example/adts/operator:0.1.0": operator,
        "registry.example/adts/trainer:0.1.0": trainer,
    }.items():
        text = text.replace(documented, ours)
    assert "registry.example" not in text, text
    return text


def test_no_block_is_left_out() -> None:
    marked = [block for name in (INSTALL, FIRST_JOB) for block in page(name).blocks if block.language == "sh"]
    assert sorted(story(), key=str) == sorted(marked, key=str)


def test_the_api_server_takes_the_objects_in_the_docs(cluster: Access) -> None:
    blocks = [block for it in pages() for block in it.blocks if block.language == "yaml"]
    objects = [thing for block in blocks for thing in yaml.safe_load_all(block.text)]
    # neither jobs nor parts of their spec: those need no server to be judged
    others = [it for it in objects if it.get("kind", "DistributedTraining") != "DistributedTraining"]
    assert others != []
    for thing in others:
        cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(thing))
