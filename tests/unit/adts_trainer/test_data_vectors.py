"""Data of the mlp, and synthetic data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from adts_api.training import Data, Model
from adts_trainer.batch import IGNORED_TARGET, Batch, DataFacts
from adts_trainer.data.dataset import Dataset
from adts_trainer.data_loader import open_dataset
from adts_trainer.errors import DataError


def open_(data: Data, model: Model | None = None, path: str | None = None, seed: int = 0) -> Dataset:
    return open_dataset(
        data, path=path, seed=seed, cache_dir=Path("x"), is_local_lead=True, barrier=lambda: None, model=model
    )


def tensors(path: Path, **content: torch.Tensor) -> Data:
    save_file(content, path)
    return Data(type="tensors", path=str(path))


def test_classes_and_values_are_told_apart_by_their_type(tmp_path: Path) -> None:
    inputs = torch.arange(12.0).reshape(4, 3)
    classes = open_(tensors(tmp_path / "c.safetensors", inputs=inputs, targets=torch.tensor([0, 2, 1, 2])))
    values = open_(tensors(tmp_path / "r.safetensors", inputs=inputs, targets=torch.tensor([0.5, 1.5, 2.5, 3.5])))
    assert classes.facts == DataFacts("classification", input_size=3, output_size=3)
    assert values.facts == DataFacts("regression", input_size=3, output_size=1)
    batch = classes.batch(np.array([3, 1]), np.array([8, 9]))
    assert batch.inputs.tolist() == [[9.0, 10.0, 11.0], [3.0, 4.0, 5.0]]
    assert batch.targets.tolist() == [2, 2]
    assert values.batch(np.array([3]), np.array([0])).targets.tolist() == [[3.5]]


X = torch.zeros(4, 3)
WRONG = [
    ("no targets", {"inputs": X}, r"has no tensor targets \(it has inputs\)"),
    ("rows differ", {"inputs": X, "targets": torch.zeros(5)}, "4 inputs but 5 targets"),
    ("3-D inputs", {"inputs": X[None], "targets": torch.zeros(1)}, r"inputs are .* \[1, 4, 3\]; they must be"),
    ("integer inputs", {"inputs": X.long(), "targets": torch.zeros(4)}, r"inputs are torch\.int64"),
    ("2-D classes", {"inputs": X, "targets": X.long()}, r"targets are torch\.int64 \[4, 3\]; classes must be int64"),
    ("negative class", {"inputs": X, "targets": torch.tensor([0, -1, 0, 0])}, "class -1 is negative"),
    ("no rows", {"inputs": X[:0], "targets": torch.zeros(0)}, "nothing to train on"),
]


@pytest.mark.parametrize(("content", "message"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_wrong_tensors_are_one_message(tmp_path: Path, content: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_(tensors(tmp_path / "x.safetensors", **content))


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_text("hello")
    with pytest.raises(DataError, match=r"x\.safetensors: is no safetensors file"):
        open_(Data(type="tensors", path=str(tmp_path)))


@pytest.mark.parametrize("model", [Model(type="gpt"), Model(type="mlp")], ids=["tokens", "vectors"])
def test_synthetic_samples_are_functions_of_seed_name_and_id(model: Model) -> None:
    data, ids = Data(type="synthetic", sequence_length=16), np.array([5, 60_000])
    first = open_(data, model).batch(ids, ids)
    assert torch.equal(first.inputs, open_(data, model).batch(ids, ids).inputs)
    assert torch.equal(first.inputs[1:], open_(data, model).batch(ids[1:], ids[1:]).inputs)
    assert not torch.equal(first.inputs, open_(data, model, seed=1).batch(ids, ids).inputs)
    assert not torch.equal(first.inputs, open_(data, model, path="held-out").batch(ids, ids).inputs)


def test_synthetic_tokens_mostly_continue_a_progression() -> None:
    dataset = open_(Data(type="synthetic", sequence_length=64), Model(type="gpt", vocabulary_size=17))
    ids = np.arange(50)
    batch = dataset.batch(ids, ids)
    assert int(batch.inputs.max()) < 17
    steps = (batch.targets - batch.inputs) % 17
    follows = steps == steps.mode(dim=1, keepdim=True).values
    assert 0.85 < follows.float().mean() < 0.97


def test_synthetic_vectors_have_the_model_s_sizes_and_one_rule() -> None:
    dataset = open_(Data(type="synthetic"), Model(type="mlp", input_size=5, output_size=3))
    assert dataset.facts == DataFacts("classification", input_size=5, output_size=3)
    batch = dataset.batch(np.arange(200), np.arange(200))
    assert set(batch.targets.tolist()) == {0, 1, 2}


def test_batch_counts_moves_and_splits() -> None:
    targets = torch.tensor([[1, IGNORED_TARGET], [2, 3], [IGNORED_TARGET, IGNORED_TARGET], [4, 5]])
    batch = Batch(targets.clamp(min=0), targets, torch.arange(4))
    assert batch.valid == 5
    assert [part.valid for part in batch.split(2)] == [3, 2]
    assert [part.keys.tolist() for part in batch.split(4)] == [[0], [1], [2], [3]]
    with pytest.raises(ValueError, match="4 samples do not split into 3"):
        batch.split(3)
    rows = Batch(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64), torch.arange(2))
    moved = rows.to("cpu", torch.float32)
    assert (moved.inputs.dtype, moved.targets.dtype, moved.keys.dtype) == (torch.float32, torch.float32, torch.int64)
    assert rows.valid == 2
