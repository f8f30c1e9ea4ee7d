"""The contract's environment: read once, all errors at once."""

from __future__ import annotations

import pytest

from adts_api.contract import CONTRACT_VERSION, Env
from adts_api.errors import ConfigError
from adts_trainer.launch import machine
from adts_trainer.launch.settings import read_settings


@pytest.fixture
def environ(tmp_path) -> dict[str, str]:
    """What the operator gives the second of three pods with two processes each."""
    (tmp_path / "training.yaml").write_text("kind: DistributedTraining\n")
    (tmp_path / "token").write_text("secret\n")
    return {
        Env.CONTRACT: str(CONTRACT_VERSION), Env.CONFIG: str(tmp_path / "training.yaml"),
        Env.JOB_NAME: "gpt2", Env.JOB_UID: "1234", Env.ATTEMPT: "2", Env.POD_NAME: "gpt2-1-2",
        Env.NODE_NAME: "worker-b",
        Env.NNODES: "3", Env.NODE_RANK: "1", Env.LOCAL_WORLD_SIZE: "2", Env.WORLD_SIZE: "6",
        Env.MASTER_ADDR: "gpt2-0-2.gpt2", Env.MASTER_PORT: "29500", Env.PORT: "29400", Env.LEAD: "gpt2-0-2.gpt2:29400",
        Env.TOKEN_FILE: str(tmp_path / "token"), Env.DEVICE: "cpu", Env.START_TIMEOUT: "90", Env.GRACE: "60",
        Env.THREADS: "3",
    }  # fmt: skip


def test_a_pod_reads_the_contract(environ, tmp_path):
    settings = read_settings(environ)
    assert settings.config_path == tmp_path / "training.yaml"
    assert (settings.job_name, settings.job_uid, settings.attempt) == ("gpt2", "1234", 2)
    assert (settings.node_rank, settings.nnodes, settings.local_world_size, settings.world_size) == (1, 3, 2, 6)
    assert (settings.master_addr, settings.master_port) == ("gpt2-0-2.gpt2", 29500)
    assert (settings.port, settings.lead, settings.token) == (29400, "gpt2-0-2.gpt2:29400", "secret")
    assert (settings.limits.start_seconds, settings.limits.drain_seconds) == (90, 55)
    assert (settings.threads, settings.device, settings.is_lead) == (3, "cpu", False)
    assert settings.bind_address is None, "other pods must reach it"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (Env.CONTRACT, "9", "ADTS_CONTRACT_VERSION: 9 is more than one apart from this trainer's 1"),
        (Env.CONTRACT, None, "ADTS_CONTRACT_VERSION: is not set"),
        (Env.CONFIG, "/nowhere/training.yaml", "ADTS_CONFIG: /nowhere/training.yaml is not a file; mount"),
        (Env.JOB_UID, None, "ADTS_JOB_UID: is not set; the operator and `adts run` set it"),
        (Env.ATTEMPT, "two", "ADTS_ATTEMPT: 'two' is not a whole number; write digits"),
        (Env.ATTEMPT, "0", "ADTS_ATTEMPT: 0 is out of range; use 1 to"),
        (Env.NODE_RANK, "3", "NODE_RANK: 3 is out of range; use 0 to 2"),
        (Env.NODE_RANK, "-1", "NODE_RANK: -1 is out of range; use 0 to"),
        (Env.WORLD_SIZE, "5", "WORLD_SIZE: 5 is not NNODES x LOCAL_WORLD_SIZE = 3 x 2; use 6"),
        (Env.LOCAL_WORLD_SIZE, "0", "LOCAL_WORLD_SIZE: 0 is out of range; use 1 to"),
        (Env.NNODES, "", "NNODES: is not set"),
        (Env.MASTER_ADDR, None, "MASTER_ADDR: is not set"),
        (Env.MASTER_PORT, "70000", "MASTER_PORT: 70000 is out of range; use 1 to 65535"),
        (Env.PORT, "http", "ADTS_PORT: 'http' is not a whole number"),
        (Env.LEAD, None, "ADTS_LEAD: is not set"),
        (Env.LEAD, "gpt2-0-2", "ADTS_LEAD: 'gpt2-0-2' is not host:port; write such as"),
        (Env.TOKEN_FILE, "/nowhere/token", "ADTS_TOKEN_FILE: /nowhere/token cannot be read"),
        (Env.DEVICE, "tpu", "ADTS_DEVICE: 'tpu' is not known; use cpu or cuda"),
        (Env.START_TIMEOUT, "soon", "ADTS_START_TIMEOUT_SECONDS: 'soon' is not a number of seconds; write digits"),
        (Env.GRACE, "-5", "ADTS_GRACE_SECONDS: -5 is out of range"),
        (Env.THREADS, "0", "ADTS_THREADS: 0 is out of range; use 1 to 4096"),
    ],
)
def test_a_wrong_variable_is_named_with_value_rule_and_fix(environ, name, value, message):
    environ.pop(name)
    if value is not None:
        environ[name] = value
    with pytest.raises(ConfigError) as error:
        read_settings(environ)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1, "one mistake, one line"


def test_an_empty_token_is_refused(environ, tmp_path):
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigError, match=r"ADTS_TOKEN_FILE: .* is empty"):
        read_settings(environ)


def test_all_mistakes_are_reported_at_once(environ):
    environ |= {Env.ATTEMPT: "x", Env.PORT: "y", Env.DEVICE: "z"}
    with pytest.raises(ConfigError) as error:
        read_settings(environ)
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
        "ADTS_PORT",
        "ADTS_ATTEMPT",
        "ADTS_DEVICE",
    ]


@pytest.mark.parametrize("version", [CONTRACT_VERSION, CONTRACT_VERSION + 1])
def test_a_contract_one_version_apart_works(environ, version):
    assert read_settings(environ | {Env.CONTRACT: str(version)}).attempt == 2


def test_cores_are_shared_among_the_processes(environ, monkeypatch):
    monkeypatch.setattr(machine, "available_cores", lambda: 8)
    environ.pop(Env.THREADS)
    assert read_settings(environ).threads == 4
    environ |= {Env.LOCAL_WORLD_SIZE: "16", Env.WORLD_SIZE: "48"}
    assert read_settings(environ).threads == 1


def test_a_pod_alone_needs_no_lead_and_no_token(environ):
    environ |= {Env.NNODES: "1", Env.NODE_RANK: "0", Env.WORLD_SIZE: "2", Env.MASTER_ADDR: "localhost"}
    del environ[Env.LEAD], environ[Env.TOKEN_FILE]
    settings = read_settings(environ)
    assert (settings.is_lead, settings.token, settings.bind_address) == (True, "", "127.0.0.1")


def test_without_a_manifest_it_is_the_quick_start(monkeypatch):
    monkeypatch.setattr(machine, "torch_has_cuda", lambda: False)
    settings = read_settings({Env.MASTER_ADDR: "localhost", Env.MASTER_PORT: "12355"})
    assert settings.config_path is None
    assert (settings.master_addr, settings.master_port, settings.port) == ("localhost", 12355, 0)
    assert (settings.world_size, settings.device, settings.bind_address) == (1, "cpu", "127.0.0.1")
    assert read_settings({}).master_port == 29500


def test_the_quick_start_takes_one_process_per_device(monkeypatch):
    monkeypatch.setattr(machine, "torch_has_cuda", lambda: True)
    monkeypatch.setattr(machine, "cuda_devices", lambda environ: 4)
    settings = read_settings({})
    assert (settings.device, settings.local_world_size) == ("cuda", 4)
    assert read_settings({Env.DEVICE: "cpu"}).local_world_size == 1


def test_two_quick_starts_are_different_jobs():
    assert read_settings({}).job_uid != read_settings({}).job_uid


def test_several_nodes_need_a_manifest():
    with pytest.raises(ConfigError, match="ADTS_CONFIG: is not set; NNODES 2 needs a manifest"):
        read_settings({Env.NNODES: "2"})
