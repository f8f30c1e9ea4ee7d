"""What `adts run` says to bad input: one message with the field or file, the contract's exit code, nothing lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from adts_api.contract import CONTRACT_VERSION, Env, ExitCode
from support.operator_runs import REAL, Workplace

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

MANIFEST = """\
apiVersion: adts.dev/v1alpha1
kind: DistributedTraining
metadata: {name: demo}
spec:
  workers: {processesPerWorker: 2}
  model: {type: gpt, layers: 1, hiddenSize: 32, heads: 2, vocabularySize: 256}
  data: {type: synthetic, sequenceLength: 32}
  training: {steps: 4, globalBatchSize: 4, device: cpu, tensorboard: false}
  runPolicy: {backoffLimit: 0}
"""

CASES: dict[str, tuple[list[str], ExitCode, list[str]]] = {
    "unknown field": (["training.step=4"], ExitCode.BAD_CONFIG, ["spec.training.step: unknown field", "`steps`"]),
    "wrong type": (["training.steps=many"], ExitCode.BAD_CONFIG, ["spec.training.steps: 'many' is a string"]),
    "batch that does not divide": (
        ["training.globalBatchSize=5"],
        ExitCode.BAD_CONFIG,
        ["spec.training.globalBatchSize: 5 is no multiple of 2 data ranks; use 4 or 6"],
    ),
    "missing data": (
        ["data={type: tokens, path: /data/none.bin}"],
        ExitCode.BAD_DATA,
        ["runs/data/none.bin"],
    ),
    "empty data": (["data={type: tokens, path: /data/empty.bin}"], ExitCode.BAD_DATA, ["runs/data/empty.bin", "empty"]),
    "factory that raises": (
        ["model={type: custom, factory: 'bad_factory:build', vocabularySize: 256}"],
        ExitCode.USER_CODE,
        ["spec.model.factory: bad_factory:build", "RuntimeError", "no weights today"],
    ),
    "more GPUs than there are": (
        ["training={device: auto, globalBatchSize: 64, steps: 4}", "workers={gpusPerWorker: 64}"],
        ExitCode.BAD_CONFIG,
        ["spec.workers: 1 x 64 = 64 GPUs asked for", "add --set "],
    ),
}


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    (tmp_path / "runs" / "data").mkdir(parents=True)
    (tmp_path / "runs" / "data" / "empty.bin").touch()
    (tmp_path / "bad_factory.py").write_text("def build():\n    raise RuntimeError('no weights today')\n")
    return Workplace(tmp_path, REAL, MANIFEST)


@pytest.mark.parametrize("name", CASES)
def test_one_message_and_the_code(name: str, place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(place.folder))
    assignments, code, words = CASES[name]
    done = place.adts("run", "training.yaml", *(it for value in assignments for it in ("--set", value)))
    assert done.returncode == code, done.stdout + done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_corrupt_checkpoint_is_named_and_stays(place: Workplace) -> None:
    assert place.adts("run", "training.yaml", "--set", "checkpoint.everySteps=2").returncode == 0
    checkpoints = place.folder / "runs/demo/checkpoints"
    damaged = next((checkpoints / "4-1").glob("*.distcp"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    longer = ("run", "training.yaml", "--set", "checkpoint.everySteps=2", "--set", "training.steps=6")
    done = place.adts(*longer)
    assert done.returncode == ExitCode.BAD_CHECKPOINT, done.stderr
    assert f"checkpoints/4-1: the contents of {damaged.name} have changed (CRC-32)" in done.stderr
    assert "to continue from step 2 in 2-1" in done.stderr
    assert damaged.read_bytes() == content
    for file in (checkpoints / "4-1").iterdir():
        file.unlink()
    (checkpoints / "4-1").rmdir()
    done = place.adts(*longer)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "continue from step 2" in done.stdout


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """As in a container: the launcher alone, with the contract's environment."""
    job = yaml.safe_load(MANIFEST)
    job["spec"]["checkpoint"] = {"path": str(tmp_path / "checkpoints")}
    (tmp_path / "training.yaml").write_text(yaml.safe_dump(job))
    with socket.socket() as squatter:
        squatter.bind(("", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        environment = {
            Env.CONTRACT: str(CONTRACT_VERSION),
            Env.CONFIG: str(tmp_path / "training.yaml"),
            Env.JOB_NAME: "demo",
            Env.JOB_UID: "uid",
            Env.ATTEMPT: "1",
            Env.MASTER_ADDR: "localhost",
            Env.MASTER_PORT: str(port),
            Env.PORT: "0",
            Env.NNODES: "1",
            Env.NODE_RANK: "0",
            Env.WORLD_SIZE: "2",
            Env.LOCAL_WORLD_SIZE: "2",
            Env.DEVICE: "cpu",
        }
        done = subprocess.run(
            [sys.executable, "-m", "adts_trainer"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == ExitCode.PORT_TAKEN, done.stdout + done.stderr
    assert f"MASTER_PORT: {port} is in use" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(("size", "survivors"), [("700k", []), ("1200k", ["2-1"])], ids=["for none", "for one"])
def test_a_full_disk_is_named_and_the_last_checkpoint_stays(
    size: str, survivors: list[str], place: Workplace, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)
    bigger = ("--set", "model.hiddenSize=64", "--set", f"checkpoint={{path: {small_disk}, everySteps: 2}}")
    done = place.adts("run", "training.yaml", *bigger)
    assert done.returncode == ExitCode.STORAGE, done.stdout + done.stderr
    assert f"{small_disk}/" in done.stderr
    assert "the disk is full; free space there" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    whole = [path.name for path in small_disk.iterdir() if path.is_dir() and not path.name.endswith(".writing")]
    assert whole == survivors
    if survivors:
        assert json.loads((small_disk / "latest").read_text())["directory"] == survivors[-1]
