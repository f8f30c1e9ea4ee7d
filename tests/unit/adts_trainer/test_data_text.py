"""Text and JSONL: tokenised once per node, the same complaint on every process, a cache that notices changes."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from adts_api.training import Data
from adts_trainer.data.dataset import Dataset
from adts_trainer.data.files import written_atomically
from adts_trainer.data_loader import open_dataset
from adts_trainer.errors import DataError, StorageError

ZERO = np.array([0])


def open_(folder: Path, lead: bool = True, barrier: Any = lambda: None, **fields: Any) -> Dataset:
    data = Data(**{"type": "text", "sequence_length": 4, **fields})
    return open_dataset(data, seed=0, cache_dir=folder / "cache", is_local_lead=lead, barrier=barrier)


def tokens_of(dataset: Dataset) -> list[int]:
    batches = [dataset.batch(np.array([i]), ZERO) for i in range(len(dataset))]
    return [batches[0].inputs[0, 0].item(), *(t for b in batches for t in b.targets[0].tolist())]


def words(path: Path, special: list[str]) -> str:
    vocabulary = {word: i for i, word in enumerate(["red", "green", "blue", "?", *special])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(path))
    return str(path)


def test_files_of_a_folder_are_documents_in_sorted_order_with_a_zero_byte_between(tmp_path: Path) -> None:
    source = tmp_path / "texts"
    (source / "deep").mkdir(parents=True)
    (source / "b.txt").write_text("BBB")
    (source / "a.txt").write_text("AA")
    (source / "deep" / "c.txt").write_text("C")
    (source / ".hidden").write_text("never")
    dataset = open_(tmp_path, path=str(source), sequence_length=8)
    assert bytes(tokens_of(dataset)) == b"AA\0BBB\0C\0"
    assert dataset.facts.vocabulary_size == 256
    assert dataset.facts.tokenizer == "bytes"


@pytest.mark.parametrize(
    ("special", "separator"), [(["<|endoftext|>"], [4]), ([], [])], ids=["with end-of-text", "without"]
)
def test_a_tokenizer_file_separates_documents_by_its_end_of_text(
    tmp_path: Path, special: list[str], separator: list[int]
) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "red green"}\n\n{"text": "blue red"}\n')
    tokenizer = words(tmp_path / "tokenizer.json", special)
    expected = [0, 1, *separator, 2, 0, *separator]
    dataset = open_(tmp_path, type="jsonl", path=str(tmp_path), tokenizer=tokenizer, sequence_length=len(expected) - 1)
    assert tokens_of(dataset) == expected
    assert dataset.facts.vocabulary_size == 4 + len(special)


def test_jsonl_reads_the_named_field(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"body": "née", "text": "no"}\n')
    dataset = open_(tmp_path, type="jsonl", path=str(tmp_path / "x.jsonl"), text_field="body")
    assert bytes(tokens_of(dataset)) == "née".encode() + b"\0"


WRONG_LINES = [
    ("malformed", "{oops", r"x\.jsonl:2: is no JSON"),
    (
        "no field",
        '{"body": "b"}',
        r"x\.jsonl:2: has no text in field 'text' \(it has body\); set spec\.data\.textField",
    ),
    ("not text", '{"text": 3}', r"x\.jsonl:2: has no text in field 'text'"),
    ("not an object", "[1]", r"x\.jsonl:2: has no text in field 'text' \(it has list\)"),
]


@pytest.mark.parametrize(("line", "message"), [c[1:] for c in WRONG_LINES], ids=[c[0] for c in WRONG_LINES])
def test_a_wrong_line_is_named_on_every_process(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        open_(tmp_path, type="jsonl", path=str(tmp_path / "x.jsonl"))
    with pytest.raises(DataError, match=message):
        open_(tmp_path, lead=False, type="jsonl", path=str(tmp_path / "x.jsonl"))


def test_a_corrected_file_is_read_again(tmp_path: Path) -> None:
    source = tmp_path / "x.jsonl"
    source.write_text("{oops\n")
    with pytest.raises(DataError):
        open_(tmp_path, type="jsonl", path=str(source))
    source.write_text('{"text": "abcd"}\n')
    assert len(open_(tmp_path, type="jsonl", path=str(source))) == 1


def test_others_wait_for_the_local_lead(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("abcdefgh")
    order: list[str] = []

    def lead_runs_now() -> None:
        open_(tmp_path, path=str(source), barrier=lambda: order.append("lead is at the barrier"))
        order.append("others go on")

    dataset = open_(tmp_path, lead=False, barrier=lead_runs_now, path=str(source))
    assert order == ["lead is at the barrier", "others go on"]
    assert bytes(tokens_of(dataset)) == b"abcdefgh\0"


def test_cache_is_used_again_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.txt"
    source.write_text("abcdefgh")
    open_(tmp_path, path=str(source))
    with monkeypatch.context() as patch:
        patch.setattr("adts_trainer.data.text.write_tokens", lambda *_: pytest.fail("tokenised twice"))
        open_(tmp_path, path=str(source))
    source.write_text("ABCDEFGH")
    os.utime(source, ns=(1, 1))  # same size, another time
    assert bytes(tokens_of(open_(tmp_path, path=str(source)))) == b"ABCDEFGH\0"


def test_a_cache_file_cut_short_is_written_again(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("abcdefgh")
    open_(tmp_path, path=str(source))
    (cached,) = (tmp_path / "cache").glob("*.bin")
    cached.write_bytes(b"abc")
    assert bytes(tokens_of(open_(tmp_path, path=str(source)))) == b"abcdefgh\0"


def test_files_larger_than_a_block_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adts_trainer.data.text._BLOCK_BYTES", 7)
    source = tmp_path / "a.txt"
    text = "one\ntwo three\n\nfour-is-longer-than-a-block\nfive"
    source.write_text(text)
    dataset = open_(tmp_path, path=str(source), sequence_length=len(text))
    assert bytes(tokens_of(dataset)).decode() == text + "\0"


WRONG = [
    ("missing", {"path": "no/such"}, r"spec\.data\.path: no/such: no such file or folder"),
    ("no tokenizer", {"tokenizer": "no.json"}, r"spec\.data\.tokenizer: no\.json: no such file; use `bytes`"),
    ("too short", {"sequence_length": 99}, r"9 tokens are too few for one sample of 99 \+ 1 tokens"),
]


@pytest.mark.parametrize(("fields", "message"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_wrong_input_is_one_message(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    (tmp_path / "a.txt").write_text("abcdefgh")
    with pytest.raises(DataError, match=message):
        open_(tmp_path, **{"path": str(tmp_path / "a.txt"), **fields})


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefgh")
    (tmp_path / "t.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(DataError, match=r"t\.json: is no tokenizer\.json"):
        open_(tmp_path, path=str(tmp_path / "a.txt"), tokenizer=str(tmp_path / "t.json"))


def test_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("\n")
    with pytest.raises(DataError, match="the sources hold no text"):
        open_(tmp_path, type="jsonl", path=str(tmp_path / "x.jsonl"))


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "the disk is full; free space"), (errno.EROFS, "cannot write: Read-only file system")],
    ids=["full", "read-only"],
)
def test_a_failed_write_is_a_storage_error_and_leaves_nothing(tmp_path: Path, code: int, message: str) -> None:
    def fail_half_way() -> None:
        with written_atomically(tmp_path / "x.bin") as temporary:
            temporary.write_bytes(b"half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(StorageError, match=message):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_cache_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("abcdefgh" * 10_000)
    real_open = Path.open

    def open_full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return real_open(Path("/dev/full") if self.name.endswith(".tmp") else self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(StorageError, match=r"text-.*\.bin: the disk is full"):
        open_(tmp_path, path=str(tmp_path / "a.txt"))
    with pytest.raises(StorageError, match=r"text-.*\.bin: the first process of this node could not write it"):
        open_(tmp_path, lead=False, path=str(tmp_path / "a.txt"))
