"""Token files: windows across files, the description beside them, and one message for each way they can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adts_api.training import Data, Model
from adts_trainer.batch import DataFacts
from adts_trainer.data.dataset import Dataset
from adts_trainer.data.memmap import Sidecar, TokenDataset, write_sidecar
from adts_trainer.data_loader import open_dataset
from adts_trainer.errors import DataError


def write(path: Path, tokens: list[int], dtype: str = "uint16", vocabulary: int = 0, tokenizer: str = "bytes") -> Path:
    np.array(tokens, dtype=dtype).tofile(path)
    if vocabulary:
        write_sidecar(path, Sidecar(dtype, vocabulary, len(tokens), tokenizer))
    return path


def open_(path: Path | str, sequence_length: int = 4, token_type: str = "auto", vocabulary: int = 0) -> Dataset:
    data = Data(type="tokens", path=str(path), sequence_length=sequence_length, token_type=token_type)
    model = Model(type="gpt", vocabulary_size=vocabulary)
    return open_dataset(
        data, seed=0, cache_dir=Path("unused"), is_local_lead=True, barrier=lambda: pytest.fail("no need"), model=model
    )


def test_targets_are_the_next_tokens_and_samples_do_not_overlap(tmp_path: Path) -> None:
    dataset = open_(write(tmp_path / "a.bin", list(range(14)), vocabulary=14))
    batch = dataset.batch(np.array([2, 0]), np.array([5, 6]))
    assert len(dataset) == 3  # 13 targets make three windows of four; the partial one is dropped
    assert batch.inputs.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert batch.targets.tolist() == [[9, 10, 11, 12], [1, 2, 3, 4]]
    assert batch.keys.tolist() == [5, 6]
    assert batch.valid == 8
    assert dataset.facts == DataFacts("tokens", vocabulary_size=14, tokenizer="bytes")


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    T=st.integers(1, 7),
)
def test_several_files_read_as_one_long_array(lengths: list[int], T: int) -> None:
    whole = np.arange(sum(lengths), dtype=np.uint16)
    arrays = np.split(whole, np.cumsum(lengths)[:-1])
    if len(whole) < T + 1:
        return
    dataset = TokenDataset(arrays, DataFacts("tokens"), T, "test")
    ids = np.arange(len(dataset))
    batch = dataset.batch(ids, ids)
    expected = np.stack([whole[i * T : i * T + T + 1] for i in ids])
    assert np.array_equal(batch.inputs.numpy(), expected[:, :-1])
    assert np.array_equal(batch.targets.numpy(), expected[:, 1:])


def test_folder_and_glob_take_files_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "b.bin", [4, 5, 6])
    write(tmp_path / "a.bin", [0, 1, 2, 3])
    write(tmp_path / "sub" / "c.bin", [7, 8])
    (tmp_path / "notes.txt").write_text("not tokens")
    key = np.array([0])
    assert open_(tmp_path, 8).batch(key, key).targets.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert open_(f"{tmp_path}/?.bin", 6).batch(key, key).targets.tolist() == [[1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("token_type", ["uint8", "uint16", "uint32"])
def test_type_without_description_is_the_spec_s(tmp_path: Path, token_type: str) -> None:
    dataset = open_(write(tmp_path / "a.bin", [1, 2, 3, 200, 5], dtype=token_type), 4, token_type)
    assert dataset.batch(np.array([0]), np.array([0])).inputs.tolist() == [[1, 2, 3, 200]]
    assert dataset.facts.vocabulary_size == 0


def test_evaluation_path_is_read_like_the_training_data(tmp_path: Path) -> None:
    write(tmp_path / "train.bin", [0] * 9)
    write(tmp_path / "val.bin", [3] * 9)
    data = Data(type="tokens", path=str(tmp_path / "train.bin"), sequence_length=8)
    held_out = open_dataset(
        data, path=str(tmp_path / "val.bin"), seed=0, cache_dir=tmp_path, is_local_lead=True, barrier=lambda: None
    )
    assert held_out.batch(np.array([0]), np.array([0])).inputs.unique().tolist() == [3]


def broken_sidecar(folder: Path) -> Path:
    path = write(folder / "a.bin", [1, 2, 3])
    path.with_suffix(".json").write_text("{")
    return path


def unknown_dtype(folder: Path) -> Path:
    path = write(folder / "a.bin", [1, 2, 3])
    path.with_suffix(".json").write_text(json.dumps({"dtype": "int7", "vocabularySize": 9, "tokens": 3}))
    return path


def stale_sidecar(folder: Path) -> Path:
    path = write(folder / "a.bin", [1, 2, 3], vocabulary=9)
    np.array([1, 2, 3, 4], dtype=np.uint16).tofile(path)
    return path


def odd_bytes(folder: Path) -> Path:
    (folder / "a.bin").write_bytes(b"abc")
    return folder / "a.bin"


def empty_file(folder: Path) -> Path:
    (folder / "a.bin").write_bytes(b"")
    return folder / "a.bin"


def two_tokenizers(folder: Path) -> Path:
    write(folder / "a.bin", [1] * 9, vocabulary=9, tokenizer="bytes")
    write(folder / "b.bin", [1] * 9, vocabulary=9, tokenizer="other.json")
    return folder


WRONG = [
    ("missing", lambda f: f / "no.bin", r"no\.bin: no such file or folder"),
    ("empty path", lambda _: "", r"spec\.data\.path: is empty; name a file"),
    ("empty folder", lambda f: f, r"the folder holds no \.bin file"),
    ("empty file", empty_file, r"a\.bin: the file is empty"),
    ("odd bytes", odd_bytes, r"a\.bin: 3 bytes are no whole number of uint16 tokens; .*spec\.data\.tokenType"),
    ("too few", lambda f: write(f / "a.bin", [1, 2, 3]), r"3 tokens are too few for one sample of 4 \+ 1.*at most 2"),
    ("broken .json", broken_sidecar, r"a\.json: not a description of a token file.*adts data prepare"),
    ("unknown dtype", unknown_dtype, r"a\.json: dtype 'int7' is none of uint8, uint16, uint32"),
    ("stale .json", stale_sidecar, r"a\.bin: holds 4 tokens but a\.json says 3"),
    ("two tokenizers", two_tokenizers, r"files of different tokenizers: bytes, other\.json"),
]


@pytest.mark.parametrize(("make", "message"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_a_wrong_file_is_one_message(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_(make(tmp_path))


def test_type_that_contradicts_the_description_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", [1] * 20, vocabulary=9)
    with pytest.raises(DataError, match=r"tokenType is uint32 but a\.json says uint16; set .* to auto"):
        open_(path, token_type="uint32")


def test_an_id_outside_the_vocabulary_is_named_when_it_is_read(tmp_path: Path) -> None:
    dataset = open_(write(tmp_path / "a.bin", [1, 2, 3, 99, 4]), vocabulary=50)
    with pytest.raises(
        DataError, match=r"token id 99 is outside the vocabulary of 50 ids; .*spec\.model\.vocabularySize"
    ):
        dataset.batch(np.array([0]), np.array([0]))


def test_the_narrower_vocabulary_of_model_and_description_bounds_the_ids(tmp_path: Path) -> None:
    dataset = open_(write(tmp_path / "a.bin", [1, 2, 3, 99, 4], vocabulary=200), vocabulary=50)
    with pytest.raises(DataError, match="token id 99 is outside the vocabulary of 50 ids"):
        dataset.batch(np.array([0]), np.array([0]))


@pytest.mark.parametrize(("dtype", "is_refused"), [("uint8", True), ("uint16", False)])
def test_held_out_tokens_of_an_unstated_type_are_not_guessed(dtype: str, is_refused: bool, tmp_path: Path) -> None:
    training = write(tmp_path / "train.bin", [1] * 20, dtype, vocabulary=9)
    held_out = write(tmp_path / "held-out.bin", [1] * 20, dtype)
    data = Data(type="tokens", path=str(training), sequence_length=4)

    def open_held_out(data: Data) -> Dataset:
        return open_dataset(
            data, path=str(held_out), seed=0, cache_dir=tmp_path, is_local_lead=True, barrier=lambda: None
        )

    if is_refused:
        with pytest.raises(DataError, match=r"held-out\.bin: has no held-out\.json .*train\.bin is of uint8; "):
            open_held_out(data)
    assert len(open_held_out(data.model_copy(update={"token_type": dtype}))) == 4
