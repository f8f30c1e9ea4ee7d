"""A checkpoint folder without its manifest: finding, reading, fitting and exporting the weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from adts_api.training import Data, Model, Precision
from adts_api.v1alpha1 import Spec
from adts_trainer.batch import Batch, DataFacts
from adts_trainer.errors import CheckpointError
from adts_trainer.export import export_weights
from adts_trainer.model import build_model, forward
from adts_trainer.model_card import read_model_card, write_model_card
from adts_trainer.weights import find_checkpoint, load_model, load_weights
from support.models import materialize

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # saving in one process
GPT = Model(type="gpt", layers=1, hidden_size=8, heads=2)
DATA = Data(type="text", sequence_length=6)
FACTS = DataFacts("tokens", vocabulary_size=256, tokenizer="bytes")


def save(folder: Path, model: Model = GPT, dtype: str = "fp32", directory: str = "7-1") -> torch.nn.Module:
    """A run folder as the loop leaves it."""
    spec = Spec(model=model, data=DATA, precision=Precision(dtype=dtype))
    built = build_model(model, spec.data, FACTS, seed=0, dtype=torch.float64 if dtype == "fp64" else torch.float32)
    materialize(built.module, "cpu", 0)
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(built.module.named_parameters())
    dcp.save({"model": weights, "step": 7}, checkpoint_id=folder / directory, no_dist=True)
    (folder / "latest").write_text(json.dumps({"directory": directory, "step": 7}))
    write_model_card(folder / "model.json", spec, FACTS)
    return built.module


@pytest.mark.parametrize("inside", ["", "checkpoints"], ids=["checkpoint folder", "run folder"])
@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16"])
def test_weights_come_back_as_they_were(tmp_path: Path, inside: str, dtype: str) -> None:
    saved = save(tmp_path / inside, dtype=dtype)
    found = find_checkpoint(tmp_path)
    loaded = load_model(found)
    ids = torch.arange(6)[None]
    batch = Batch(ids, ids, torch.zeros(1, dtype=torch.int64))
    assert found.step == 7
    assert not loaded.training
    assert loaded.head.weight is loaded.token_embedding.weight
    assert torch.equal(forward(loaded, batch), forward(saved, batch))


def test_one_checkpoint_can_be_named(tmp_path: Path) -> None:
    save(tmp_path)
    found = find_checkpoint(tmp_path / "7-1")
    assert (found.step, found.directory) == (7, tmp_path / "7-1")


def test_card_says_what_the_spec_said(tmp_path: Path) -> None:
    spec = Spec(model=GPT, data=Data(type="text", path="x"), precision=Precision(dtype="bf16"))
    write_model_card(tmp_path / "model.json", spec, FACTS)
    card = read_model_card(tmp_path / "model.json")
    assert (card.model, card.data, card.facts, card.precision) == (spec.model, spec.data, FACTS, "bf16")


def test_tokenizer_travels_with_the_card(tmp_path: Path) -> None:
    source = tmp_path / "elsewhere.json"
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(source))
    write_model_card(tmp_path / "run" / "model.json", Spec(), DataFacts("tokens", 1, tokenizer=str(source)))
    source.unlink()
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert read_model_card(moved / "model.json").facts.tokenizer == str(moved / "tokenizer.json")


def no_pointer(folder: Path) -> None:
    (folder / "latest").unlink()


def broken_pointer(folder: Path) -> None:
    (folder / "latest").write_text("7-1")


def dangling_pointer(folder: Path) -> None:
    (folder / "7-1").rename(folder / "gone")


def no_card(folder: Path) -> None:
    (folder / "model.json").unlink()


def broken_card(folder: Path) -> None:
    (folder / "model.json").write_text("{}")


def cut_metadata(folder: Path) -> None:
    file = folder / "7-1" / ".metadata"
    file.write_bytes(file.read_bytes()[:40])


def cut_weights(folder: Path) -> None:
    (file,) = (folder / "7-1").glob("*.distcp")
    file.write_bytes(file.read_bytes()[:100])


def no_weights(folder: Path) -> None:
    (folder / "7-1").rename(folder / "6-1")
    dcp.save({"optimizer": {"a": torch.zeros(1)}}, checkpoint_id=folder / "7-1", no_dist=True)


def more_layers(folder: Path) -> None:
    write_model_card(folder / "model.json", Spec(model=GPT.model_copy(update={"layers": 2}), data=DATA), FACTS)


def other_width(folder: Path) -> None:
    write_model_card(folder / "model.json", Spec(model=GPT.model_copy(update={"hidden_size": 4}), data=DATA), FACTS)


WRONG = [
    ("no pointer", no_pointer, r"holds no checkpoint \(no file `latest` there or in checkpoints/\)"),
    ("broken pointer", broken_pointer, r"latest: is no pointer to a checkpoint"),
    ("dangling pointer", dangling_pointer, r"latest: points to 7-1, which is gone"),
    ("no card", no_card, r"model\.json: no such file; it is written with a run's first checkpoint"),
    ("broken card", broken_card, r"model\.json: is no model card \(KeyError: 'facts'\)"),
    ("cut metadata", cut_metadata, r"7-1: cannot be read .*it is damaged: name an older checkpoint"),
    ("cut weights", cut_weights, r"7-1: cannot be read .*it is damaged"),
    ("no weights", no_weights, r"7-1: holds no model weights"),
    ("more layers", more_layers, r"does not fit its model\.json: layers\.1\.attention_norm\.weight is missing"),
    ("other width", other_width, r"does not fit its model\.json: .*size mismatch"),
]


@pytest.mark.parametrize(("spoil", "message"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_a_spoilt_folder_is_one_message(tmp_path: Path, spoil: Any, message: str) -> None:
    save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_model(find_checkpoint(tmp_path))


def test_a_missing_folder_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no: no such folder; name the folder of a run"):
        find_checkpoint(tmp_path / "no")


def test_export_writes_a_tied_matrix_once_with_the_model_in_the_metadata(tmp_path: Path) -> None:
    save(tmp_path)
    found = find_checkpoint(tmp_path)
    weights = load_weights(found.directory)
    both = {**weights, "head.weight": weights["token_embedding.weight"].clone()}  # an engine may save both names
    shutil.rmtree(found.directory)
    dcp.save({"model": both}, checkpoint_id=found.directory, no_dist=True)
    out = tmp_path / "out" / "model.safetensors"
    assert export_weights(found, "safetensors", out).size == out.stat().st_size
    with safe_open(out, "pt") as file:
        assert "head.weight" not in file.keys()  # noqa: SIM118 - no mapping
        assert torch.equal(file.get_tensor("token_embedding.weight"), weights["token_embedding.weight"])
        metadata = file.metadata()
    assert metadata["step"] == "7"
    assert Model.model_validate_json(metadata["model"]) == GPT
