"""The stored job, its folder, and what its pods leave behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adts_api.contract import ExitCode
from adts_api.errors import ConfigError
from adts_api.v1alpha1 import Status
from adts_operator.cluster.folder import JobFolder, storage_errors, write_atomically
from adts_operator.cluster.last_words import last_words, parse_termination
from adts_operator.cluster.local_jobs import LocalJob
from adts_operator.errors import StorageError
from adts_operator.output import LogTail
from support.operator_jobs import make_job


def test_the_stored_job_comes_back(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, "demo")
    with LocalJob(folder) as jobs:
        first = jobs.open(make_job())
    with LocalJob(folder) as jobs:
        again = jobs.open(make_job())
        changed = jobs.open(make_job(training={"steps": 7}))
    assert again.metadata == first.metadata
    assert changed.metadata.uid == first.metadata.uid
    assert changed.metadata.generation == 2


async def test_another_life_keeps_the_attempt_and_forgets_the_failures(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, "demo")
    with LocalJob(folder) as jobs:
        job = jobs.open(make_job())
        await jobs.write_status(job, Status(phase="Failed", attempt=4, failures=3, exit_code=4, not_before="x"))
    with LocalJob(folder) as jobs:
        status = jobs.open(make_job()).status
    assert (status.attempt, status.failures, status.exit_code, status.not_before) == (4, 0, None, "")


def test_a_damaged_record_is_not_overwritten(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, "demo")
    with LocalJob(folder) as jobs:
        folder.record.write_text('{"half": ')
        with pytest.raises(ConfigError, match=r"job\.json: is damaged .* remove it"):
            jobs.open(make_job())
    assert folder.record.read_text() == '{"half": '


def test_fresh_never_removes_what_is_not_ours(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, "demo")
    folder.checkpoints.mkdir(parents=True)
    (folder.checkpoints / "precious").touch()
    with LocalJob(folder) as jobs, pytest.raises(ConfigError, match="was not made by `adts run`"):
        jobs.forget()
    assert (folder.checkpoints / "precious").exists()


def test_the_data_folder_is_no_job(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metadata\.name: data is the folder for /data"):
        JobFolder(tmp_path, "data").make()


def test_what_the_file_system_refuses_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file in the way")
    with pytest.raises(StorageError, match="another --workdir") as refused:
        JobFolder(tmp_path, "demo").make()
    assert refused.value.exit_code is ExitCode.STORAGE


def test_a_full_disk_is_one_message() -> None:
    full = Path("/dev/full")
    with pytest.raises(StorageError, match="/dev/full: No space left on device; free space"), storage_errors(full):
        full.write_text("x")


def test_a_replaced_file_is_never_half_written(tmp_path: Path) -> None:
    path = tmp_path / "token"
    write_atomically(path, "old", mode=0o600)
    write_atomically(path, "new", mode=0o600)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [it.name for it in tmp_path.iterdir()] == ["token"]


def test_last_words_prefer_the_launchers_own() -> None:
    said = parse_termination('{"state": "failed", "message": "rank 1: no such file"}')
    assert last_words(said, b"noise") == "rank 1: no such file"
    assert parse_termination("") is None
    assert last_words(None, b"a line\n\x1b[31mthe end\x1b[0m\n") == "a line\nthe end"
    long = last_words(None, b"x" * 2000 + b"\nwhole line\n" + b"y" * 500)
    assert long == "whole line\n" + "y" * 500


def test_output_comes_once_and_in_whole_lines(tmp_path: Path) -> None:
    (tmp_path / "demo-0-1.log").write_text("old\n")
    tail = LogTail(tmp_path)
    log = tmp_path / "demo-0-2.log"
    log.write_text("first\nhalf")
    assert tail.read() == ["first"]
    log.write_text("first\nhalf a line\n")
    assert tail.read() == ["half a line"]
    (tmp_path / "demo-1-2.log").write_text("second pod\n")
    assert tail.read() == ["demo-1-2 second pod"]


def test_the_lock_is_free_after_a_crash(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from adts_operator.cluster.folder import JobFolder\n"
        "from adts_operator.cluster.local_jobs import LocalJob\n"
        "LocalJob(JobFolder(Path(sys.argv[1]), 'demo')).__enter__(); os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 9
    with LocalJob(JobFolder(tmp_path, "demo")) as jobs:
        jobs.open(make_job())
