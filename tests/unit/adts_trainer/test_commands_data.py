"""`adts data prepare` and `adts data baselines` on the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from adts_trainer.commands.data import data
from adts_trainer.data.memmap import open_tokens
from adts_trainer.errors import DataError


def adts(*arguments: str | Path) -> Result:
    return CliRunner().invoke(data, [str(a) for a in arguments])


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    (folder / "vendored").mkdir(parents=True)
    for name, size in [("a.py", 40), ("b.py", 30), ("c.py", 20), ("d.py", 10)]:
        (folder / name).write_text(name[0] * size)
    (folder / "vendored" / "e.py").write_text("e" * 500)
    (folder / "notes.md").write_text("m" * 500)
    (folder / "empty.py").write_text("")
    return folder


def text(binary: Path) -> bytes:
    return bytes(open_tokens(binary)[0])


def test_held_out_files_are_the_last_ones_and_whole(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens.bin"
    result = adts("prepare", sources, "--include", "*.py", "--exclude", "vendored", "--holdout", "0.25", "--out", out)
    assert result.exit_code == 0, result.output
    assert text(out) == b"a" * 40 + b"\0" + b"b" * 30 + b"\0"
    assert text(tmp_path / "tokens-val.bin") == b"c" * 20 + b"\0" + b"d" * 10 + b"\0"
    assert f"{out}: 72 tokens (uint8, 256 ids) from 2 files, 70 bytes" in result.output
    assert "tokens-val.bin: 32 tokens" in result.output


def test_limit_stops_after_the_file_that_reaches_it(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens.bin"
    assert adts("prepare", sources / "?.py", "--limit", "60", "--out", out).exit_code == 0
    assert set(text(out)) == set(b"ab\0")


def test_files_and_jsonl_mix(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"body": "xy"}\n')
    out = tmp_path / "tokens.bin"
    result = adts("prepare", sources / "d.py", tmp_path / "x.jsonl", "--text-field", "body", "--out", out)
    assert result.exit_code == 0, result.output
    assert text(out) == b"d" * 10 + b"\0xy\0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--include", "*.rs"], r"none of 7 files matches \*\.rs; change --include or --exclude"),
        (["--include", "a.py", "--holdout", "0.5"], r"--holdout: 0\.5 of 1 files leaves none to train on"),
        (["--tokenizer", "no.json"], r"no\.json: no such file; use `bytes`"),
    ],
    ids=["nothing matches", "one file to hold out", "no tokenizer"],
)
def test_wrong_arguments_are_one_message(sources: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = adts("prepare", sources, "--out", tmp_path / "t.bin", *arguments)
    assert isinstance(result.exception, DataError)
    assert result.exception.exit_code == 4
    with pytest.raises(DataError, match=message):
        raise result.exception
    assert not list(tmp_path.glob("*.bin"))


def test_output_must_be_a_bin_file(sources: Path, tmp_path: Path) -> None:
    result = adts("prepare", sources, "--out", tmp_path / "tokens.txt")
    assert result.exit_code == 2
    assert "must end in .bin" in result.output


def test_baselines_print_a_table_and_write_what_the_report_reads(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat. " * 40)
    (tmp_path / "b.txt").write_text("the mat sat on the cat. " * 10)
    out = tmp_path / "t.bin"
    assert adts("prepare", tmp_path / "?.txt", "--holdout", "0.2", "--out", out).exit_code == 0
    table = adts("baselines", out, tmp_path / "t-val.bin", "--json", tmp_path / "sub" / "baselines.json")
    raw = json.loads((tmp_path / "sub" / "baselines.json").read_text())
    assert list(raw) == ["unigram", "bigram", "trigram"]
    assert raw["unigram"] > raw["bigram"] > raw["trigram"]
    assert f"trigram      {raw['trigram']:.3f}" in table.output


def test_commands_are_light_to_import() -> None:
    """`adts` imports every command at start; torch would cost it a second."""
    code = (
        "import sys, adts_trainer.commands.data, adts_trainer.commands.sample, adts_trainer.commands.export;"
        "print(sorted({'torch', 'numpy', 'rich', 'tokenizers'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"
