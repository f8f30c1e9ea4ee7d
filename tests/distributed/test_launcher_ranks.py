"""What a rank finds when it starts, and what the launcher passes on of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adts_api.contract import ExitCode
from adts_trainer.launch.output import LINE_LIMIT
from adts_trainer.launch.settings import LauncherSettings
from support.launchers import free_port, get, jobs, wait_until

pytestmark = pytest.mark.distributed


@pytest.fixture
def job(tmp_path):
    yield from jobs(tmp_path)


def test_every_line_carries_its_rank(job):
    one = job({}, target="support.launcher_targets:talk")
    one.start()
    assert one.codes() == [0]
    lines = [line for line in one.log().splitlines() if not line.startswith("[launcher] ")]
    assert all(line.startswith(("[rank 0] ", "[rank 1] ")) for line in lines)
    first = [line.removeprefix("[rank 1] ") for line in lines if line.startswith("[rank 1] ")]
    assert first[:2] == ["hello from 1 of 2", "bad \N{REPLACEMENT CHARACTER} byte"]
    assert [len(line) for line in first[2:5]] == [LINE_LIMIT, LINE_LIMIT, 40_000 - 2 * LINE_LIMIT]
    assert first[5] == "no end"


@pytest.mark.parametrize(
    "preload",
    [["support.launcher_targets"], [*LauncherSettings.preload, "support.launcher_targets"]],
    ids=["without torch", "as it is"],
)
def test_the_fork_server_has_one_thread_and_no_cuda(job, preload):
    """A child forked from a process with threads hangs at its first operation on two of them."""
    one = job({}, target="support.launcher_targets:parents", options={"preload": preload})
    one.start()
    assert one.codes(30.0) == [0]
    expected = {"threads": 1, "cuda": False, "torch": "torch" in preload, "omp": "1"}
    for rank in range(2):
        assert json.loads((one.folder / f"parents-{rank}.json").read_text()) == expected


def test_stacks_name_the_function_that_hangs(job):
    one = job({}, target="support.launcher_targets:sleep")
    one.start()
    wait_until(lambda: all((one.folder / f"pid-{rank}").exists() for rank in range(2)))
    for _ in range(2):  # asking is harmless: it can be asked again
        text = get(one.ports[0], "/stacks")
        assert text.count("in a_function_that_hangs") == 2
        assert "== rank 0 ==" in text
        assert "== rank 1 ==" in text


def python(arguments: list[str], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ADTS_", "MASTER_"))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=clean | environ, capture_output=True, text=True, timeout=60
    )


def test_the_launcher_itself_imports_no_torch(tmp_path):
    code = (
        "import sys, adts_trainer.main, adts_trainer.launch.launcher, adts_trainer.launch.quickstart; "
        "print(sorted({'torch', 'numpy', 'deepspeed'} & set(sys.modules)))"
    )
    assert python(["-c", code], tmp_path).stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "message"),
    [
        pytest.param(["--wrong"], {}, ExitCode.BAD_CONFIG, "usage: python -m adts_trainer", id="unknown option"),
        pytest.param(
            [],
            {"ADTS_CONFIG": "/nowhere.yaml"},
            ExitCode.BAD_CONFIG,
            "ADTS_CONFIG: /nowhere.yaml is not a file",
            id="no file",
        ),
        pytest.param([], {"MASTER_PORT": "x"}, ExitCode.BAD_CONFIG, "MASTER_PORT: 'x' is not a whole", id="port"),
    ],
)
def test_a_wrong_start_ends_in_one_message(tmp_path, arguments, environ, code, message):
    ended = python(["-m", "adts_trainer", *arguments], tmp_path, **environ)
    assert ended.returncode == code
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_debug_shows_the_traceback(tmp_path):
    ended = python(["-m", "adts_trainer", "--debug"], tmp_path, MASTER_PORT="x")
    assert "Traceback" in ended.stderr


def test_a_wrong_manifest_is_told_line_by_line(tmp_path):
    config = tmp_path / "training.yaml"
    config.write_text(
        "apiVersion: adts.dev/v1alpha1\nkind: DistributedTraining\nmetadata: {name: x}\n"
        "spec: {model: {type: gpt, layers: none}, colour: blue}\n"
    )
    environ = {
        "ADTS_CONFIG": str(config), "ADTS_CONTRACT_VERSION": "1", "ADTS_JOB_NAME": "x", "ADTS_JOB_UID": "u",
        "ADTS_ATTEMPT": "1", "NNODES": "1", "NODE_RANK": "0", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "ADTS_PORT": "0",
    }  # fmt: skip
    ended = python(["-m", "adts_trainer"], tmp_path, **environ)
    assert ended.returncode == ExitCode.BAD_CONFIG
    assert "spec.model.layers" in ended.stderr
    assert "spec.colour" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_command_runs_instead_of_the_launcher(tmp_path):
    ended = python(["-m", "adts_trainer", "report", "--help"], tmp_path)
    assert ended.returncode == 0
    assert "Usage: python -m adts_trainer report" in ended.stdout


@pytest.mark.slow
def test_the_bare_quick_start_trains_and_saves_when_told_to_stop(tmp_path):
    """`export MASTER_ADDR=localhost MASTER_PORT=...; python -m adts_trainer`, and nothing else."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ADTS_", "MASTER_"))}
    environ = clean | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "LOCAL_WORLD_SIZE": "2"}
    log = tmp_path / "log"
    with log.open("wb") as out:
        pod = subprocess.Popen(
            [sys.executable, "-m", "adts_trainer"], cwd=tmp_path, env=environ, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: "[rank 0] step 1/" in log.read_text(), seconds=60.0)
        pod.terminate()
        assert pod.wait(30.0) == ExitCode.PREEMPTED
    finally:
        pod.kill()
        pod.wait()
    assert (tmp_path / "runs/default-1/checkpoints/latest").exists()
    assert (tmp_path / "runs/default-1/training.yaml").exists()
