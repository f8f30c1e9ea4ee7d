"""A checkpoint folder: a crash between any two file operations, the fence, what is kept and what is found."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adts_trainer import checkpoint_files as files
from adts_trainer.checkpoint_manifest import FORMAT
from adts_trainer.errors import CheckpointError, FencedError, StorageError

FIRST, SECOND = files.Claim("job", 1), files.Claim("job", 2)


def write(root: Path, step: int, claim: files.Claim = FIRST) -> str:
    """What DCP would leave before the commit; the checkpoint's name."""
    name = files.directory_name(step, claim.attempt)
    directory = files.writing_path(root, name)
    directory.mkdir(parents=True)
    (directory / "__0_0.distcp").write_bytes(b"weights of step %d" % step)
    (directory / ".metadata").write_bytes(b"metadata")
    return name


def manifest(root: Path, name: str, step: int) -> dict[str, object]:
    facts = files.facts_of_rank(root, name, 0)
    return {
        "format": FORMAT,
        "step": step,
        "attempt": 1,
        "consumedSamples": 16 * step,
        "skippedSteps": [3],
        "recentLosses": [2.5, 2],
        "scaler": {"active": True, "scale": 1.0, "goodSteps": 0},
        "optimizer": "adamw",
        "time": files.now(),
        "files": [vars(entry) for entry in facts],
    }


def commit(root: Path, step: int, claim: files.Claim = FIRST, operations: int | None = None) -> list[str]:
    """Commit, or only the first `operations` of it; the operations done."""
    name = write(root, step, claim)
    return list(itertools.islice(files.committing(root, name, manifest(root, name, step), claim), operations))


def loadable(root: Path) -> int:
    """Step of the checkpoint that would be loaded, after its files were verified."""
    directory = files.latest(root)
    assert directory is not None
    found = files.read_manifest(directory)
    files.verify(directory, [files.FileFacts(**entry) for entry in found["files"]])
    return int(found["step"])


def test_a_commit_makes_the_checkpoint_the_latest(tmp_path: Path) -> None:
    files.claim_folder(tmp_path, FIRST)
    assert commit(tmp_path, 10) == ["manifest written", "directory renamed", "latest replaced"]
    assert loadable(tmp_path) == 10
    assert json.loads((tmp_path / "latest").read_text())["attempt"] == 1


@pytest.mark.parametrize("operations", range(4))
def test_a_crash_in_a_commit_leaves_a_loadable_folder_and_the_next_attempt_goes_on(
    operations: int, tmp_path: Path
) -> None:
    files.claim_folder(tmp_path, FIRST)
    commit(tmp_path, 10)
    commit(tmp_path, 20, operations=operations)
    assert loadable(tmp_path) == (20 if operations == 3 else 10)
    files.claim_folder(tmp_path, SECOND)
    assert not list(tmp_path.glob("*.writing"))
    commit(tmp_path, 20, SECOND)
    assert loadable(tmp_path) == 20


@pytest.mark.parametrize("operations", range(4))
def test_a_crash_in_the_first_commit_leaves_nothing_or_a_whole_checkpoint(operations: int, tmp_path: Path) -> None:
    files.claim_folder(tmp_path, FIRST)
    commit(tmp_path, 10, operations=operations)
    if operations < 2:
        assert files.latest(tmp_path) is None
    else:
        assert loadable(tmp_path) == 10


def test_the_same_step_can_be_committed_again_after_a_crash(tmp_path: Path) -> None:
    files.claim_folder(tmp_path, FIRST)
    commit(tmp_path, 10)
    commit(tmp_path, 20, operations=2)  # renamed, but not yet the latest
    files.claim_folder(tmp_path, FIRST)
    assert "leftover removed" in commit(tmp_path, 20)
    assert loadable(tmp_path) == 20


def test_an_older_attempt_can_neither_start_nor_commit(tmp_path: Path) -> None:
    files.claim_folder(tmp_path, FIRST)
    commit(tmp_path, 10)
    files.claim_folder(tmp_path, SECOND)
    commit(tmp_path, 15, SECOND)
    with pytest.raises(FencedError, match="attempt 2 has taken over this folder from attempt 1"):
        commit(tmp_path, 20)
    with pytest.raises(FencedError):
        files.claim_folder(tmp_path, FIRST)
    assert loadable(tmp_path) == 15


def test_a_fence_that_falls_between_rename_and_latest_holds(tmp_path: Path) -> None:
    files.claim_folder(tmp_path, FIRST)
    commit(tmp_path, 10)
    name = write(tmp_path, 20)
    operations = files.committing(tmp_path, name, manifest(tmp_path, name, 20), FIRST)
    assert [next(operations), next(operations)] == ["manifest written", "directory renamed"]
    files.claim_folder(tmp_path, SECOND)
    with pytest.raises(FencedError):
        next(operations)
    assert loadable(tmp_path) == 10


def test_the_same_attempt_may_claim_again(tmp_path: Path) -> None:
    for _ in range(2):
        files.claim_folder(tmp_path, SECOND)
    files.check_fence(tmp_path, SECOND)


def test_another_job_takes_the_folder_over_and_fences_the_first(tmp_path: Path) -> None:
    files.claim_folder(tmp_path, SECOND)
    files.claim_folder(tmp_path, files.Claim("another", 1))
    with pytest.raises(FencedError, match="job another has taken over"):
        files.check_fence(tmp_path, SECOND)


@settings(max_examples=20)  # each writes and syncs a dozen files
@given(steps=st.lists(st.integers(1, 50), min_size=1, max_size=6, unique=True), keep=st.integers(1, 4))
def test_the_newest_are_kept_and_always_the_latest(
    steps: list[int], keep: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("checkpoints")
    files.claim_folder(root, FIRST)
    for step in steps:
        commit(root, step)
    files.prune(root, keep)
    kept = {int(path.name.partition("-")[0]) for path in files.checkpoints(root)}
    assert kept == set(sorted(steps)[-keep:]) | {steps[-1]}
    assert loadable(root) == steps[-1]


def test_a_later_attempt_is_newer_than_a_later_step_of_an_older_one(tmp_path: Path) -> None:
    files.claim_folder(tmp_path, FIRST)
    commit(tmp_path, 30)
    files.claim_folder(tmp_path, SECOND)
    commit(tmp_path, 20, SECOND)
    assert [path.name for path in files.checkpoints(tmp_path)] == ["20-2", "30-1"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"directory": "gone-1"}',
        '{"directory": "30-1"}',
        '{"step": 3}',
        '{"directory": ""}',
        '{"directory": "."}',
        '{"directory": "../other/10-1"}',
        '{"directory": "20-1.writing"}',
        '{"directory": 7}',
    ],
)
def test_a_useless_latest_falls_back_to_the_newest(text: str, tmp_path: Path) -> None:
    files.claim_folder(tmp_path, FIRST)
    commit(tmp_path, 10)
    write(tmp_path, 20)
    (tmp_path / "latest").write_text(text)
    assert loadable(tmp_path) == 10


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert files.latest(tmp_path) is None
    assert files.latest(tmp_path / "missing") is None


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    files.claim_folder(tmp_path, FIRST)
    commit(tmp_path, 10)
    file = tmp_path / "10-1" / "__0_0.distcp"
    original = file.read_bytes()
    for position in range(len(original)):
        file.write_bytes(original[:position] + bytes([original[position] ^ 1]) + original[position + 1 :])
        with pytest.raises(CheckpointError, match="CRC-32"):
            loadable(tmp_path)


def test_each_rank_accounts_for_its_own_files(tmp_path: Path) -> None:
    name = write(tmp_path, 10)
    for rank in (1, 11):
        (files.writing_path(tmp_path, name) / f"__{rank}_0.distcp").write_bytes(b"x")
    names = [[entry.name for entry in files.facts_of_rank(tmp_path, name, rank)] for rank in (0, 1, 11)]
    assert names == [[".metadata", "__0_0.distcp"], ["__1_0.distcp"], ["__11_0.distcp"]]


FILE = {"name": "a", "bytes": 1, "crc32": 2}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("format", None),
        ("step", "10"),
        ("step", True),
        ("attempt", None),
        ("consumedSamples", 1.5),
        ("skippedSteps", {}),
        ("skippedSteps", ["3"]),
        ("recentLosses", 2.5),
        ("recentLosses", [None]),
        ("scaler", None),
        ("scaler", {"scale": 1.0}),
        ("optimizer", 7),
        ("time", 1700000000),
        ("files", {"a": FILE}),
        ("files", ["a"]),
        ("files", [{**FILE, "bytes": "1"}]),
        ("files", [{**FILE, "crc32": None}]),
        ("files", [{**FILE, "name": "../a"}]),
        ("files", [{**FILE, "owner": "b"}]),
    ],
)
def test_a_malformed_field_of_a_manifest_is_named(field: str, value: object, tmp_path: Path) -> None:
    files.claim_folder(tmp_path, FIRST)
    commit(tmp_path, 10)
    path = tmp_path / "10-1" / "manifest.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, field: value}))
    with pytest.raises(CheckpointError, match=rf"10-1: manifest\.json.*{field}.*delete "):
        loadable(tmp_path)
    del raw[field]
    path.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=rf"10-1: manifest\.json.*{field}"):
        loadable(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"uid": "job", "attempt": "x"}', '{"uid": 7, "attempt": 1}', '{"uid": "job", "attempt": 1.5}'],
)
def test_a_malformed_lock_is_named(text: str, tmp_path: Path) -> None:
    lock = tmp_path / "attempt.lock"
    lock.write_text(text)
    for use in (files.claim_folder, files.check_fence):
        with pytest.raises(
            CheckpointError, match=r"attempt\.lock: .*delete it if no other process of the job is alive"
        ):
            use(tmp_path, SECOND)
    assert lock.read_text() == text


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("latest", files.latest),
        ("attempt.lock", lambda root: files.claim_folder(root, FIRST)),
        ("10-1/manifest.json", loadable),
    ],
    ids=["latest", "lock", "manifest"],
)
def test_a_folder_in_place_of_a_file_is_named(name: str, use: Callable[[Path], object], tmp_path: Path) -> None:
    files.claim_folder(tmp_path, FIRST)
    commit(tmp_path, 10)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match=rf"{name}: cannot read: Is a directory; "):
        use(tmp_path)


@pytest.mark.parametrize("below", ["", "checkpoints"])
def test_a_file_in_place_of_the_folder_is_named(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/.*: cannot read: Not a directory; spec\.checkpoint\.path must be"):
        files.latest(tmp_path / "file" / below)
