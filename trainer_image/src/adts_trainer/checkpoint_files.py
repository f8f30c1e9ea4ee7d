"""A checkpoint folder on disk: names, the attempt fence, the commit, and what is found again. No torch here.

    <root>/
      40-1/             checkpoint of step 40, written by attempt 1: DCP's files and manifest.json
      60-1.writing/     being written, or left behind by a crash
      20-1.deleting/    being deleted
      latest            JSON {directory, step, attempt, time}: the commit
      attempt.lock      JSON {uid, attempt}: who may commit

A crash between any two file operations leaves `latest` pointing to a whole checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adts_trainer.checkpoint_manifest import FORMAT, Lock, Manifest
from adts_trainer.errors import CheckpointError, FencedError, StorageError

LATEST, LOCK, MANIFEST = "latest", "attempt.lock", "manifest.json"
_WRITING, _DELETING = ".writing", ".deleting"
_SHARED = ".metadata"
_NAME = re.compile(r"(\d+)-(\d+)")
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Claim:
    """Who writes to a folder: one attempt of one job."""

    uid: str
    attempt: int


@dataclass(frozen=True)
class FileFacts:
    """One file of a checkpoint."""

    name: str
    bytes: int
    crc32: int


def directory_name(step: int, attempt: int) -> str:
    """`<step>-<attempt>`: attempts never share a directory."""
    return f"{step}-{attempt}"


def writing_path(root: Path, name: str) -> Path:
    """Where a checkpoint is written before its commit."""
    return root / (name + _WRITING)


def claim_folder(root: Path, claim: Claim) -> None:
    """Take a folder for this attempt and remove what a crash left half done. Raises FencedError for an older attempt,
    CheckpointError for a malformed lock.

    The folder of another job is taken over: its own next commit will find itself fenced.
    """
    root.mkdir(parents=True, exist_ok=True)
    check_fence(root, claim, other_job_may_own=True)
    _replace(root / LOCK, asdict(claim))
    for leftover in root.iterdir():
        if leftover.name.endswith((_WRITING, _DELETING)) and leftover.is_dir():
            shutil.rmtree(leftover)


def check_fence(root: Path, claim: Claim, *, other_job_may_own: bool = False) -> None:
    """Raise FencedError where a higher attempt, or another job, has claimed the folder since; CheckpointError where
    the lock is malformed, so that nobody knows who has."""
    lock = root / LOCK
    raw = _read_json(lock)
    if raw is None and not lock.exists():
        return
    try:
        owner = Claim(**Lock.model_validate(raw).model_dump())
    except ValidationError as error:
        raise CheckpointError(
            f"{lock}: is no lock of adts (JSON with a text `uid` and a whole `attempt`); delete it if no other process "
            "of the job is alive"
        ) from error
    same_job = owner.uid == claim.uid
    if (same_job and owner.attempt > claim.attempt) or (not same_job and not other_job_may_own):
        who = f"attempt {owner.attempt}" if same_job else f"job {owner.uid}"
        raise FencedError(
            f"{lock}: {who} has taken over this folder from attempt {claim.attempt}; nothing more is written. If no "
            f"other process of the job is alive, delete {lock} and start again"
        )


def facts_of(file: Path) -> FileFacts:
    """Size and CRC-32 of a file."""
    size, crc = 0, 0
    with file.open("rb") as stream:
        while block := stream.read(_CHUNK_BYTES):
            size += len(block)
            crc = zlib.crc32(block, crc)
    return FileFacts(file.name, size, crc)


def facts_of_rank(root: Path, name: str, rank: int) -> list[FileFacts]:
    """Facts of the files a rank wrote with DCP, before the commit; the lead's include what all ranks share."""
    own, shared = f"__{rank}_", not rank
    found = sorted(path for path in writing_path(root, name).iterdir() if path.is_file())
    return [facts_of(path) for path in found if path.name.startswith(own) or (shared and path.name == _SHARED)]


def discard(root: Path, name: str) -> None:
    """Remove what was written of a checkpoint that will not be committed."""
    shutil.rmtree(writing_path(root, name), ignore_errors=True)


def committing(root: Path, name: str, manifest: dict[str, Any], claim: Claim) -> Iterator[str]:
    """Commit what lies in `writing_path`: one atomic file operation per item, which is the operation's name.

    `manifest["files"]` holds the `FileFacts` of all files. The fence is read twice, last directly before `latest`
    changes. Raises FencedError.
    """
    temporary, final = writing_path(root, name), root / name
    _replace(temporary / MANIFEST, manifest)
    yield "manifest written"
    check_fence(root, claim)
    if final.exists():  # committed by nobody: a crash came between the next two operations
        shutil.rmtree(final)
        yield "leftover removed"
    temporary.replace(final)
    _sync_folder(root)
    yield "directory renamed"
    check_fence(root, claim)
    step, attempt = manifest["step"], claim.attempt
    _replace(root / LATEST, {"directory": name, "step": step, "attempt": attempt, "time": manifest["time"]})
    yield "latest replaced"


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; never the one `latest` names. A directory loses its name first."""
    current = latest(root)
    for old in checkpoints(root)[keep:]:
        if old != current:
            doomed = old.with_name(old.name + _DELETING)
            old.replace(doomed)
            shutil.rmtree(doomed)


def checkpoints(root: Path) -> list[Path]:
    """Directories with a checkpoint's name, the newest first: by attempt, then by step, since a later attempt went on
    from what was committed."""
    if not root.is_dir():
        return []
    named = [(match, path) for path in root.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()]
    return [path for _, path in sorted(named, key=lambda item: (int(item[0][2]), int(item[0][1])), reverse=True)]


def latest(root: Path) -> Path | None:
    """The checkpoint to continue from: the one `latest` names, or the newest there is if that one is gone."""
    named = str((_read_json(root / LATEST) or {}).get("directory"))
    if _NAME.fullmatch(named) and (root / named).is_dir():
        return root / named
    return next(iter(checkpoints(root)), None)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, its fields checked. Raises CheckpointError where it is missing or malformed."""
    raw = _read_json(directory / MANIFEST)
    if raw is None:
        raise damaged(directory, f"{MANIFEST} is missing or no JSON")
    if raw.get("format") != FORMAT:
        raise damaged(
            directory, f"{MANIFEST} has format {raw.get('format')!r}, but this version of adts reads {FORMAT}"
        )
    try:
        Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise damaged(directory, f"{MANIFEST}: `{field}`: {first['msg']}") from error
    return raw


def verify(directory: Path, files: Iterable[FileFacts]) -> None:
    """Compare files with what the manifest says of them. Raises CheckpointError for the first that differs."""
    for expected in files:
        path = directory / expected.name
        if not path.is_file():
            raise damaged(directory, f"{expected.name} is missing")
        if path.stat().st_size != expected.bytes:
            raise damaged(directory, f"{expected.name} has {path.stat().st_size} bytes instead of {expected.bytes}")
        if facts_of(path) != expected:
            raise damaged(directory, f"the contents of {expected.name} have changed (CRC-32)")


def damaged(directory: Path, problem: str) -> CheckpointError:
    """The error for a checkpoint that cannot be used, with what to do about it."""
    others = [path for path in checkpoints(directory.parent) if path != directory]
    if others:
        step = others[0].name.partition("-")[0]
        fix = f"delete {directory} to continue from step {step} in {others[0].name}"
    else:
        fix = f"there is no older one; restore it from a copy, or delete {directory} to begin again"
    return CheckpointError(f"{directory}: {problem}; {fix}")


def now() -> str:
    """The time as RFC 3339."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file, or no JSON object in it. Raises StorageError where it cannot be read."""
    try:
        raw = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise StorageError(
            f"{path}: cannot read: {error.strerror or error}; spec.checkpoint.path must be a folder that this user can "
            "read and write, and this a file in it"
        ) from error
    return raw if isinstance(raw, dict) else None


def _replace(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is whole or absent, even after a power failure."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as stream:
        json.dump(content, stream, indent=1)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
