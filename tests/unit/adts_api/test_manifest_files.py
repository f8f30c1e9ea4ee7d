"""Files that are no manifest end in one message with file, place and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from adts_api.contract import ExitCode
from adts_api.errors import AdtsError
from adts_api.manifest import load, load_all

HEAD = "apiVersion: adts.dev/v1alpha1\nkind: DistributedTraining\n"

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "FILE: is empty; write a manifest of kind DistributedTraining"),
    "comments alone": (b"# nothing\n---\n", "FILE: is empty; write a manifest of kind DistributedTraining"),
    "a list": (b"- a\n", "FILE: is a list; write a mapping with apiVersion, kind, metadata and spec"),
    "a word": (b"hello\n", "FILE: 'hello' is a string; write a mapping with apiVersion, kind, metadata and spec"),
    "latin 1": (b"a: \xe9\n", "FILE: byte 3 is not UTF-8; save it as UTF-8 text"),
    "bad indentation": (
        b"spec:\n  a: 1\n b: 2\n",
        "FILE:3:2: expected <block end>, but found '<block mapping start>'; check indentation, quotes and brackets",
    ),
    "tab": (
        b"spec:\n\ta: 1\n",
        "FILE:2:1: found character '\\t' that cannot start any token; indent with spaces, not tabs",
    ),
    "colon in a value": (
        b"spec: a: 1\n",
        "FILE:1:8: mapping values are not allowed here; check the indentation, or put a value with a colon in quotes",
    ),
    "key twice": (
        b"spec:\n  steps: 1\n  seed: 2\n  steps: 3\n",
        "FILE:4:3: key `steps` stands in line 2 and again here; keep one",
    ),
    "control character": (b"a: \x00\n", "FILE: unacceptable character #x0000: special characters are not allowed"),
    "unknown tag": (
        b"a: !secret b\n",
        "FILE:1:4: could not determine a constructor for the tag '!secret'; check indentation, quotes and brackets",
    ),
    "deep nesting": (b"[" * 1500, "FILE: is nested too deeply or holds a malformed number; write it simpler"),
    "other version": (
        b"apiVersion: adts.dev/v2\nkind: DistributedTraining\n",
        "FILE: apiVersion: 'adts.dev/v2' is unknown; write adts.dev/v1alpha1",
    ),
    "other kind": (
        b"apiVersion: adts.dev/v1alpha1\nkind: Job\n",
        "FILE: kind: 'Job' is unknown; write DistributedTraining",
    ),
    "neither": (
        b"spec: {}\n",
        "FILE: apiVersion: is missing; write apiVersion: adts.dev/v1alpha1\n"
        "FILE: kind: is missing; write kind: DistributedTraining",
    ),
    "two manifests": (f"{HEAD}---\n{HEAD}".encode(), "FILE: holds 2 manifests; keep one"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_message(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(AdtsError) as caught:
        load(path)
    assert str(caught.value).replace(str(path), "FILE").startswith(message)
    assert caught.value.exit_code == ExitCode.BAD_CONFIG


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdtsError, match=r"none\.yaml: no such file; check the path$"):
        load(tmp_path / "none.yaml")


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(AdtsError, match=r"is a folder; name a file in it$"):
        load(tmp_path)


def test_a_file_below_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(AdtsError, match="Not a directory"):
        load(tmp_path / "a" / "b.yaml")


def test_load_all_returns_every_manifest(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text(f"{HEAD}metadata: {{name: a}}\n---\n{HEAD}metadata: {{name: b}}\n---\n")
    assert [manifest["metadata"]["name"] for manifest in load_all(path)] == ["a", "b"]


def test_load_all_names_the_document(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text(f"{HEAD}---\napiVersion: v1\nkind: DistributedTraining\n")
    with pytest.raises(AdtsError, match="document 2: apiVersion: 'v1'"):
        load_all(path)


SCALARS = {
    "3e-4": 3e-4,
    "1e3": 1000.0,
    "0.5": 0.5,
    "-.5": -0.5,
    "1_000": 1000,
    "0755": 493,
    "0x10": 16,
    "010.5": 10.5,
    "12:30": "12:30",
    "2027-01-15": "2027-01-15",
    "yes": True,
    "1F1B": "1F1B",
    "80Gi": "80Gi",
    "v1": "v1",
    "-": "-",
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items(), ids=SCALARS)
def test_scalars_mean_what_they_mean_to_kubectl(text: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{HEAD}spec: {{x: {text}}}\n")
    assert load(path)["spec"]["x"] == value
    assert type(load(path)["spec"]["x"]) is type(value)


def test_merge_keys_are_no_repetition(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{HEAD}spec:\n  a: &a {{x: 1, y: 2}}\n  b: {{<<: *a, y: 3}}\n")
    assert load(path)["spec"]["b"] == {"x": 1, "y": 3}
