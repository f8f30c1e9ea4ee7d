"""The `adts` command: exit codes, one message, nothing loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from adts_operator import cli
from support.operator_runs import MANIFEST


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "training.yaml"
    path.write_text(MANIFEST)
    return path


def adts(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_validate_accepts_several_files_and_documents(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = manifest.with_name("two.yaml")
    two.write_text(MANIFEST + "---\n" + MANIFEST.replace("demo", "other"))
    code, out, err = adts("validate", manifest, two, capsys=capsys)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{manifest}: demo is valid",
        f"{two}: document 1: demo is valid",
        f"{two}: document 2: other is valid",
    ]


def test_validate_prints_every_error_of_every_file(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = manifest.with_name("bad.yaml")
    bad.write_text(MANIFEST.replace("steps: 50", "stepz: 50").replace("replicas: 2", "replicas: two"))
    missing = manifest.with_name("missing.yaml")
    code, out, err = adts("validate", bad, manifest, missing, capsys=capsys)
    assert code == 2
    assert out == f"{manifest}: demo is valid\n"
    assert f"{bad}: spec.training.stepz: " in err
    assert f"{bad}: spec.workers.replicas: " in err
    assert f"{missing}: no such file" in err
    assert "Traceback" not in err


ERRORS = {
    "no command": (["nosuch"], 2, "No such command 'nosuch'"),
    "a missing file": (["run", "missing.yaml"], 2, "adts: missing.yaml: no such file"),
    "a bad --set": (["render", "{manifest}", "--set", "training"], 2, "--set training: is not path=value"),
    "a field that --set makes wrong": (
        ["run", "{manifest}", "--set", "training.steps=-1"],
        2,
        "{manifest}: spec.training.steps: ",
    ),
    "a suspended job": (["run", "{manifest}", "--set", "runPolicy.suspend=true"], 2, "--set runPolicy.suspend=false"),
    "more GPUs than there are": (
        ["run", "{manifest}", "--set", "training.device=auto", "--set", "workers={{replicas: 2, gpusPerWorker: 4}}"],
        2,
        "adts: spec.workers: 2 x 4 = 8 GPUs asked for, this machine has none; add --set training.device=cpu",
    ),
}


@pytest.mark.parametrize(("words", "code", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_are_one_message(
    words: list[str],
    code: int,
    message: str,
    manifest: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(manifest.parent)
    ended, _, err = adts(*(word.format(manifest=manifest) for word in words), capsys=capsys)
    assert ended == code
    assert message.format(manifest=manifest) in err
    assert "Traceback" not in err
    assert not (manifest.parent / "runs").exists(), "nothing is written for a job that is refused"


def test_an_unexpected_error_is_short_and_kept_whole(
    manifest: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "broken", "A command whose module does not exist.")
    code, _, err = adts("broken", capsys=capsys)
    assert code == 1
    first, second = err.strip().splitlines()
    assert first.startswith("adts: unexpected error, probably a bug: ModuleNotFoundError: ")
    saved = Path(second.removeprefix("traceback in ").removesuffix("; --debug shows it here"))
    assert "Traceback" in saved.read_text()
    saved.unlink()
    _, _, err = adts("--debug", "broken", capsys=capsys)
    assert "Traceback" in err


def test_help_names_every_command_and_imports_none() -> None:
    begin = time.monotonic()
    code = (
        "import sys\n"
        "from adts_operator import cli\n"
        "try:\n cli.main(['--help'])\n"
        "finally:\n print([m for m in ('torch', 'adts_trainer', 'kopf', 'rich', 'yaml') if m in sys.modules])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.rstrip().endswith("[]")
    for name in ("run", "validate", "render", "data", "sample", "export", "report"):
        assert f"\n  {name} " in out
    assert time.monotonic() - begin < 5.0  # 0.1 s where nothing else runs


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert adts("--version", capsys=capsys)[:2] == (0, "adts, version 0.1.0\n")


def test_commands_of_the_trainer_are_mounted(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = adts("data", "--help", capsys=capsys)
    assert code == 0
    assert "prepare" in out
