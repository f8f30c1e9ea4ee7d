"""What a pod means on one machine: folders for mounts, shares of the machine, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from adts_api.errors import ConfigError, ManifestError
from adts_api.v1alpha1 import DistributedTraining
from adts_operator.cluster import machine
from adts_operator.cluster.folder import JobFolder
from adts_operator.cluster.local_environment import free_ports, pod_environment
from adts_operator.cluster.local_limits import check_devices, check_template, template_mounts
from adts_operator.cluster.mounts import localize, to_local
from adts_operator.core.build import resource
from adts_operator.core.environment import build_environment
from support.operator_jobs import make_job

MOUNTS = {"/data": Path("/w/data"), "/checkpoints": Path("/w/demo/checkpoints"), "/data/hot": Path("/ssd")}


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("/data/a.bin", "/w/data/a.bin"),
        ("/data", "/w/data"),
        ("/data/hot/a.bin", "/ssd/a.bin"),
        ("/database/a.bin", "/database/a.bin"),
        ("data/a.bin", "data/a.bin"),
        ("/data/*.txt", "/w/data/*.txt"),
        ("bytes", "bytes"),
    ],
)
def test_to_local(path: str, local: str) -> None:
    assert to_local(path, MOUNTS) == local


def test_every_path_of_a_manifest_is_moved_and_nothing_else() -> None:
    job = make_job(
        data={"type": "tokens", "path": "/data/a.bin", "evaluation": {"path": "/data/b.bin"}},
        model={"type": "gpt", "path": "/data/model"},
    )
    before = resource(job)
    spec = localize(before, MOUNTS)["spec"]
    assert spec["data"]["path"] == "/w/data/a.bin"
    assert spec["data"]["evaluation"]["path"] == "/w/data/b.bin"
    assert spec["data"]["tokenizer"] == "bytes"
    assert spec["model"]["path"] == "/w/data/model"
    assert spec["checkpoint"]["path"] == "/w/demo/checkpoints"
    assert before == resource(job)


def in_template(**pod: Any) -> DistributedTraining:
    return make_job(workers={"template": {"spec": pod}})


def trainer(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "trainer", **fields}]


REFUSED = {
    "a value from elsewhere": (
        {"containers": trainer(env=[{"name": "KEY", "valueFrom": {"secretKeyRef": {}}}])},
        "containers[0].env[0].valueFrom: needs a cluster; write a value, or set KEY before `adts run`",
    ),
    "variables from elsewhere": ({"containers": trainer(envFrom=[{}])}, "containers[0].envFrom: needs a cluster"),
    "a sidecar": ({"containers": [{"name": "exporter"}]}, "containers[0]: is a sidecar, which needs a cluster"),
    "init containers": ({"initContainers": [{"name": "i"}]}, "initContainers: need a cluster"),
    "a claim": ({"volumes": [{"name": "v", "persistentVolumeClaim": {}}]}, "volumes[0]: v needs a cluster; use a host"),
    "a folder that is not here": (
        {"volumes": [{"name": "v", "hostPath": {"path": "/nosuch"}}]},
        "volumes[0]: v needs a cluster",
    ),
}


@pytest.mark.parametrize(("pod", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_laptop_refuses(pod: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError) as refused:
        check_template(in_template(**pod))
    assert message in str(refused.value)


def test_a_host_path_that_is_here_is_a_mount(tmp_path: Path) -> None:
    job = in_template(
        volumes=[{"name": "corpus", "hostPath": {"path": str(tmp_path)}}],
        containers=trainer(volumeMounts=[{"name": "corpus", "mountPath": "/data"}], env=[{"name": "A", "value": "1"}]),
    )
    check_template(job)
    assert template_mounts(job) == {"/data": tmp_path}


def devices(tmp_path: Path, count: int, visible: str | None = None) -> list[str]:
    (tmp_path / "dev").mkdir()
    for index in range(count):
        (tmp_path / "dev" / f"nvidia{index}").touch()
    (tmp_path / "dev" / "nvidiactl").touch()
    return machine.gpus({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}, tmp_path)


@pytest.mark.parametrize(
    ("count", "visible", "names"),
    [
        (2, None, ["0", "1"]),
        (4, "2,3", ["2", "3"]),
        (4, "", []),
        (4, "1,-1,2", ["1"]),
        (4, "GPU-a, GPU-b", ["GPU-a", "GPU-b"]),
        (0, "0,1", []),
    ],
)
def test_gpus(tmp_path: Path, count: int, visible: str | None, names: list[str]) -> None:
    assert devices(tmp_path, count, visible) == names


@pytest.mark.parametrize(
    ("here", "fields", "line"),
    [
        (0, {"gpus": 1}, "--set training.device=cpu"),
        (2, {"replicas": 4, "gpus": 8}, "--set workers.replicas=1 --set workers.gpusPerWorker=2"),
        (3, {"replicas": 1, "gpus": 4}, "--set workers.gpusPerWorker=2"),
    ],
    ids=["none at all", "some", "three do not divide a batch of eight"],
)
def test_more_gpus_than_present_says_which_set_line_fits(
    here: int, fields: dict[str, Any], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(
        model={"type": "mlp", "inputSize": 2, "outputSize": 2},
        training={"steps": 1, "globalBatchSize": 8},
        **fields,
    )
    monkeypatch.setattr("adts_operator.cluster.local_limits.gpus", lambda environ: [str(i) for i in range(here)])
    with pytest.raises(ConfigError) as refused:
        check_devices(job, {})
    assert str(refused.value).endswith(f"; add {line}")


def test_gpus_per_worker_only_counts_processes_on_the_cpu() -> None:
    check_devices(make_job(gpus=64, training={"steps": 1, "device": "cpu"}), {"CUDA_VISIBLE_DEVICES": ""})


def test_each_pod_gets_its_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda environ: ["0", "1", "2", "3"])
    monkeypatch.setattr(machine, "cores", lambda: 8)
    job = make_job(replicas=2, gpus=2)
    assert machine.share(job, 1, {}) == {"ADTS_THREADS": "2", "CUDA_VISIBLE_DEVICES": "2,3"}
    assert machine.share(make_job(replicas=9), 0, {}) == {"ADTS_THREADS": "1"}


def test_a_pods_environment_is_the_contracts_with_addresses_of_this_machine(tmp_path: Path) -> None:
    env = pod_environment(
        build_environment(make_job(), 1, 1),
        index=1,
        ports=[7000, 7001, 7002],
        mounts=JobFolder(tmp_path, "demo").mounts(1),
        termination=tmp_path / "t",
        share={"ADTS_THREADS": "1"},
        outer={"PATH": "/usr/bin", "MASTER_ADDR": "elsewhere", "LANG": "C"},
    )
    assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("127.0.0.1", "7000")
    assert (env["ADTS_LEAD"], env["ADTS_PORT"]) == ("127.0.0.1:7001", "7002")
    assert env["ADTS_CONFIG"] == str(tmp_path / "demo/run/attempt-1/training.yaml")
    assert env["ADTS_TOKEN_FILE"] == str(tmp_path / "demo/run/token")
    assert env["HOME"] == str(Path.home())
    assert env["LANG"] == "C"
    assert env["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


def test_a_folder_stands_in_for_a_claim() -> None:
    checkpoint = {"claim": "disk", "path": "/checkpoints/a"}
    spec = localize({"spec": {"checkpoint": checkpoint, "data": {"claim": "x"}}}, MOUNTS)["spec"]
    assert "claim" not in {**spec["checkpoint"], **spec["data"]}
    assert spec["checkpoint"]["path"] != checkpoint["path"]
