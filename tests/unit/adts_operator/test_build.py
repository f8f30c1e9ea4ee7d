"""The desired objects: the contract's environment for any gang, and the template laid over the pod."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adts_api.contract import CONFIG_FILE, RESERVED_ENV, Env
from adts_api.errors import ConfigError
from adts_api.v1alpha1 import DistributedTraining
from adts_api.validate import parse
from adts_operator.core.build import Defaults, build_config_map, build_missing, build_secret, build_service
from adts_operator.core.environment import HOST_PORTS, build_environment, ports
from adts_operator.core.template import merge
from support.operator_jobs import make_job

LATER = {Env.RANK, Env.LOCAL_RANK, Env.THREADS, Env.TERMINATION_FILE}
"""Names of the contract that the operator sets sometimes or never."""


def environment(job: DistributedTraining, index: int = 0, attempt: int = 1) -> dict[str, str]:
    return {it["name"]: it.get("value", "") for it in build_environment(job, attempt, index)}


def pod(index: int = 0, **fields: Any) -> dict[str, Any]:
    job = make_job(**fields)
    found: dict[str, Any] = build_missing(job, 1, [index], frozenset(), Defaults(image="image"))[-1]
    return found


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 99))
def test_environment_counts_processes_right(replicas: int, processes: int, attempt: int) -> None:
    job = make_job(replicas=replicas, processes=processes)
    for index in range(replicas):
        env = environment(job, index, attempt)
        assert int(env["WORLD_SIZE"]) == replicas * processes
        assert (env["NNODES"], env["NODE_RANK"], env["LOCAL_WORLD_SIZE"]) == (
            str(replicas),
            str(index),
            str(processes),
        )
        assert env["PET_NNODES"] == env["NNODES"]
        assert env["PET_NODE_RANK"] == env["NODE_RANK"]
        assert env["PET_NPROC_PER_NODE"] == env["LOCAL_WORLD_SIZE"]
        assert env["MASTER_ADDR"] == env["PET_MASTER_ADDR"] == f"demo-0-{attempt}.demo"
        assert env["ADTS_LEAD"] == f"demo-0-{attempt}.demo:29400"
        assert env.get("RANK") == (str(index) if processes == 1 else None)
        assert env.get("LOCAL_RANK") == ("0" if processes == 1 else None)


def test_every_name_of_the_contract_is_set() -> None:
    assert set(environment(make_job(processes=2))) >= RESERVED_ENV - LATER


@pytest.mark.parametrize(
    ("fields", "device"),
    [
        ({}, "cpu"),
        ({"gpus": 2}, "cuda"),
        ({"gpus": 2, "training": {"steps": 1, "device": "cpu"}}, "cpu"),
    ],
    ids=["cpu", "auto with GPUs is cuda", "cpu asked for"],
)
def test_device_is_resolved_by_the_operator(fields: dict[str, Any], device: str) -> None:
    assert environment(make_job(**fields))["ADTS_DEVICE"] == device


def test_ports_on_the_host_network_follow_from_the_uid() -> None:
    job = make_job(workers={"template": {"spec": {"hostNetwork": True}}})
    master, launcher = ports(job)
    assert master in HOST_PORTS
    assert launcher == master + 1
    other = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": "another"})})
    assert ports(other) != ports(job)
    assert build_service(job)["spec"]["ports"][0]["port"] == master


def test_the_config_map_holds_the_defaulted_resource() -> None:
    job = make_job(training={"steps": 7}, model={"type": "mlp", "inputSize": 1, "outputSize": 1})
    written = yaml.safe_load(build_config_map(job, 3)["data"][CONFIG_FILE])
    assert written["spec"]["optimizer"]["epsilon"] == 1e-8
    assert written["spec"]["runPolicy"]["gracePeriodSeconds"] == 120
    assert parse(written).spec == job.spec


def test_the_core_draws_no_token() -> None:
    job = make_job()
    assert build_secret(job) == build_secret(job)


def test_a_name_too_long_for_a_hostname_is_refused() -> None:
    job = make_job(name="n" * 50)
    build_missing(job, 999999, [99999], frozenset(), Defaults(image="image"))
    with pytest.raises(ConfigError, match="of 64 characters, a hostname has at most 63"):
        build_missing(job, 999999, [999999], frozenset(), Defaults(image="image"))


def test_a_gpu_pod_gets_what_it_needs_unasked() -> None:
    spec = pod(gpus=4)["spec"]
    volumes = {it["name"]: it for it in spec["volumes"]}
    container = spec["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "4096Mi"}
    assert volumes["checkpoints"]["emptyDir"] == {}
    assert {it["mountPath"] for it in container["volumeMounts"]} >= {"/dev/shm", "/tmp", "/home/adts", "/checkpoints"}
    assert spec["automountServiceAccountToken"] is False
    assert environment(make_job(gpus=4))["TORCH_NCCL_TRACE_BUFFER_SIZE"] == "2000"


def test_the_users_own_image_is_not_forced_to_be_ours() -> None:
    spec = pod(command=["torchrun", "train.py"], image="theirs")["spec"]
    assert spec["containers"][0]["command"] == ["torchrun", "train.py"]
    assert "securityContext" not in spec
    assert "securityContext" not in spec["containers"][0]
    assert not {"HOME", "TMPDIR"} & environment(make_job(command=["x"], image="theirs")).keys()


MERGES = {
    "a scalar of the template wins": ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
    "null removes": ({"a": 1, "b": 2}, {"b": None}, {"a": 1}),
    "mappings merge per field": ({"m": {"a": 1, "b": 2}}, {"m": {"b": 3}}, {"m": {"a": 1, "b": 3}}),
    "containers merge by name, sidecars are added": (
        {"containers": [{"name": "t", "image": "x", "env": []}]},
        {"containers": [{"name": "s"}, {"name": "t", "image": "y"}]},
        {"containers": [{"name": "t", "image": "y", "env": []}, {"name": "s"}]},
    ),
    "a variable is replaced whole": (
        {"env": [{"name": "A", "value": "1"}]},
        {"env": [{"name": "A", "valueFrom": {}}]},
        {"env": [{"name": "A", "valueFrom": {}}]},
    ),
    "a volume is replaced whole": (
        {"volumes": [{"name": "data", "emptyDir": {}}]},
        {"volumes": [{"name": "data", "hostPath": {"path": "/d"}}]},
        {"volumes": [{"name": "data", "hostPath": {"path": "/d"}}]},
    ),
    "mounts are told apart by their path": (
        {"volumeMounts": [{"name": "a", "mountPath": "/a"}]},
        {"volumeMounts": [{"name": "a", "mountPath": "/b"}]},
        {"volumeMounts": [{"name": "a", "mountPath": "/a"}, {"name": "a", "mountPath": "/b"}]},
    ),
    "any other list is replaced": ({"args": ["a"]}, {"args": ["b"]}, {"args": ["b"]}),
    "a toleration without a key covers all": (
        {"tolerations": [{"key": "k"}]},
        {"tolerations": [{"operator": "Exists"}]},
        {"tolerations": [{"operator": "Exists"}]},
    ),
}


@pytest.mark.parametrize(("ours", "theirs", "merged"), MERGES.values(), ids=MERGES)
def test_merge(ours: dict[str, Any], theirs: dict[str, Any], merged: dict[str, Any]) -> None:
    before = (yaml.safe_dump(ours), yaml.safe_dump(theirs))
    assert merge(ours, theirs) == merged
    assert (yaml.safe_dump(ours), yaml.safe_dump(theirs)) == before, "neither side is changed"
