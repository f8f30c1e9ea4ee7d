"""Weights in Hugging Face's layout compute there what they compute here, in both directions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn

from adts_api.training import Data, Model
from adts_api.v1alpha1 import Spec
from adts_trainer import huggingface_layout
from adts_trainer.batch import DataFacts
from adts_trainer.checkpoint_region import Region
from adts_trainer.errors import CheckpointError
from adts_trainer.export import export_weights
from adts_trainer.model import BuiltModel, build_model
from adts_trainer.model_card import write_model_card
from adts_trainer.pretrained import Weights
from adts_trainer.weights import find_checkpoint
from support.models import materialize

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # saving in one process

V, T = 61, 16
DATA = Data(type="synthetic", sequence_length=T)
BASE = Model(type="gpt", layers=2, hidden_size=32, heads=4, vocabulary_size=V)
LLAMA = BASE.model_copy(update={"shape": "llama", "key_value_heads": 2, "rope_theta": 500.0})
CASES = {
    "gpt2": BASE,
    "gpt2, untied, narrow": BASE.model_copy(update={"tie_embeddings": False, "intermediate_size": 48}),
    "llama": LLAMA,
    "llama, untied": LLAMA.model_copy(update={"tie_embeddings": False}),
}
BY_SHAPE = pytest.mark.parametrize("model", CASES.values(), ids=CASES.keys())
ROUNDING = {"gpt2": 1e-12, "llama": 1e-5}
"""The library's Llama computes norms and rotary angles in fp32 always."""
IDS = torch.arange(2 * T).reshape(2, T) * 7 % V


def built(model: Model, *, seed: int = 0, data: Data = DATA) -> BuiltModel:
    """A model in fp64 whose every parameter is random, norms and biases too."""
    made = build_model(model, data, DataFacts("tokens", V), seed=seed, dtype=torch.float64)
    materialize(made.module, "cpu", seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return made


@torch.no_grad()
def logits(module: nn.Module) -> Tensor:
    return module(IDS, torch.zeros(2, dtype=torch.int64))


def exported(
    model: Model, module: nn.Module, folder: Path, form: str = "huggingface", tokenizer: str = "bytes"
) -> Path:
    """The module as a run leaves it, exported."""
    run = folder / "run"
    dcp.save({"model": dict(module.named_parameters())}, checkpoint_id=run / "3-1", no_dist=True)
    (run / "latest").write_text(json.dumps({"directory": "3-1", "step": 3}))
    write_model_card(run / "model.json", Spec(model=model, data=DATA), DataFacts("tokens", V, tokenizer=tokenizer))
    out = folder / "exported"
    export_weights(find_checkpoint(run), form, out / "model.safetensors" if form == "safetensors" else out)
    return out


def loaded(model: Model, path: Path, data: Data = DATA) -> tuple[nn.Module, Weights]:
    """Another model, filled from a file or folder."""
    made = built(model, seed=1, data=data)
    weights = Weights(path, model, made.vocabulary_size)
    weights.require_names(made.names)
    for name, parameter in made.module.named_parameters():
        weights.fill(name, Region.of(parameter.detach()))
    return made.module, weights


def library() -> Any:
    return pytest.importorskip("transformers", reason="extra adts-trainer[huggingface] is not installed")


@torch.no_grad()
def logits_there(folder: Path) -> Tensor:
    module = library().AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, local_files_only=True)
    return module.eval()(IDS).logits


def random_theirs(model: Model, **changes: Any) -> Any:
    """A model of the library with random weights, in fp64."""
    config = huggingface_layout.config_of(model, V, T, "float64")
    torch.manual_seed(0)
    module = library().AutoModelForCausalLM.from_config(library().AutoConfig.for_model(**{**config, **changes}))
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter += 0.2 * torch.randn(parameter.shape, dtype=parameter.dtype)
    return module.eval()


@BY_SHAPE
def test_the_library_computes_the_same_with_an_export(model: Model, tmp_path: Path) -> None:
    module = built(model).module
    difference = (logits_there(exported(model, module, tmp_path)) - logits(module)).abs().max()
    print(f"{difference:.1e} of {logits(module).abs().max():.1f}")
    assert difference <= ROUNDING[model.shape]


@BY_SHAPE
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}], ids=["one file", "sharded"])
def test_weights_of_the_library_compute_the_same_here(model: Model, shards: dict[str, Any], tmp_path: Path) -> None:
    theirs = random_theirs(model)
    theirs.save_pretrained(tmp_path, **shards)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == bool(shards)
    module, weights = loaded(model, tmp_path)
    assert weights.remarks == []
    with torch.no_grad():
        difference = (theirs(IDS).logits - logits(module)).abs().max()
    assert difference <= ROUNDING[model.shape]


def as_a_linear(place: huggingface_layout.Stored) -> huggingface_layout.Stored:
    return replace(place, transposed=False)


def values_first(place: huggingface_layout.Stored) -> huggingface_layout.Stored:
    return replace(place, part=place.parts - 1 - place.part)


@pytest.mark.parametrize(("wrong", "name"), [(as_a_linear, "attention.o"), (values_first, "attention.[qv]")])
def test_without_a_precaution_the_library_computes_something_else(
    wrong: Callable[..., Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both fit: o is square, and q is as large as v."""
    import re

    table = huggingface_layout.TABLES["gpt2"]
    changed = {ours: wrong(place) if re.search(name, ours) else place for ours, place in table.items()}
    monkeypatch.setitem(huggingface_layout.TABLES, "gpt2", changed)
    module = built(BASE).module
    assert (logits_there(exported(BASE, module, tmp_path)) - logits(module)).abs().max() > 0.1


@pytest.mark.parametrize("form", ["safetensors", "huggingface"])
@BY_SHAPE
def test_an_export_comes_back_as_it_was(model: Model, form: str, tmp_path: Path) -> None:
    module = built(model).module
    folder = exported(model, module, tmp_path, form)
    again, weights = loaded(model, folder)
    for (name, value), (_, other) in zip(module.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(value, other), name
    assert weights.bytes_read == sum(p.numel() * 8 for p in module.parameters())
    assert weights.remarks == []


def test_a_file_of_ours_can_be_named_itself(tmp_path: Path) -> None:
    module = built(BASE).module
    folder = exported(BASE, module, tmp_path, "safetensors")
    assert torch.equal(logits(loaded(BASE, folder / "model.safetensors")[0]), logits(module))


def test_an_older_file_without_prefix_and_with_buffers(tmp_path: Path) -> None:
    """As openai-community/gpt2 is published: names of the model without its head, and the causal mask among them."""
    module = built(BASE).module
    folder = exported(BASE, module, tmp_path)
    file = folder / "model.safetensors"
    older = {name.removeprefix("transformer."): value for name, value in load_file(file).items()}
    older["h.0.attn.bias"] = torch.ones(1, 1, T, T)
    save_file(older, file)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "activation_function": "gelu_new"}))
    again, weights = loaded(BASE, folder)
    assert torch.equal(logits(again), logits(module))
    assert [remark.split(": ")[1] for remark in weights.remarks] == [
        "GELU is computed exactly here, not by the tanh formula of its gelu_new"
    ]


def test_a_shorter_sequence_takes_the_first_positions(tmp_path: Path) -> None:
    module = built(BASE).module
    folder = exported(BASE, module, tmp_path)
    again, weights = loaded(BASE, folder, Data(type="synthetic", sequence_length=4))
    with torch.no_grad():
        short = again(IDS[:, :4], torch.zeros(2, dtype=torch.int64))
    assert torch.equal(short, logits(module)[:, :4]) or (short - logits(module)[:, :4]).abs().max() < 1e-13
    assert weights.remarks == [f"{folder}: the first 4 of its 16 positions are used"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_other_number_formats_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    module = built(BASE).module
    file = exported(BASE, module, tmp_path, "safetensors") / "model.safetensors"
    save_file({name: value.to(dtype) for name, value in load_file(file).items()}, file)
    again, _ = loaded(BASE, file)
    for (name, value), (_, other) in zip(module.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(value.to(dtype).double(), other), name


def without_a_bias(tensors: dict[str, Tensor]) -> None:
    del tensors["transformer.h.1.attn.c_attn.bias"]


def with_a_score(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.score.weight"] = torch.zeros(2)


def wider(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.wte.weight"] = torch.zeros(V, 64)


def quantised(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"].to(torch.int8)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_a_bias, "lacks 1 tensor of this model (transformer.h.1.attn.c_attn.bias); set spec.model as it is"),
        (with_a_score, "has 1 tensor that this model does not know (transformer.score.weight); set"),
        (wider, "token_embedding.weight has shape [61, 64] there, but [61, 32] in this model; set"),
        (quantised, "transformer.ln_f.bias is int8; name weights in fp64, fp32, bf16 or fp16"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    spoil: Callable[[dict[str, Tensor]], None], words: str, tmp_path: Path
) -> None:
    folder = exported(BASE, built(BASE).module, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    spoil(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        loaded(BASE, folder)
    assert str(caught.value).startswith(f"spec.checkpoint.initializeFrom: {folder}: {words}")


@pytest.mark.parametrize("form", ["safetensors", "huggingface"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 8}, "heads 4 there, 8 here; keyValueHeads 2 there, 8 here"),
        ({"rope_theta": 10000.0}, "ropeTheta 500.0 there, 10000.0 here"),
        ({"layers": 3}, "layers 2 there, 3 here"),
        ({"tie_embeddings": False}, "tieEmbeddings True there, False here"),
        ({"vocabulary_size": 64}, "vocabularySize 61 there, 64 here"),
        ({"shape": "gpt2"}, "shape llama there, gpt2 here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_model_is_told_by_its_fields(changes: dict[str, Any], words: str, form: str, tmp_path: Path) -> None:
    """Weights of another number of heads fit, and would compute something else in silence."""
    folder = exported(LLAMA, built(LLAMA).module, tmp_path, form)
    other = LLAMA.model_copy(update={"key_value_heads": 0, **changes} if "heads" in changes else changes)
    with pytest.raises(CheckpointError, match=r"is of another model \(.*; set spec\.model as it is there") as caught:
        loaded(other, folder)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mistral"}, "has model_type mistral, and only gpt2 and llama are known"),
        ({"attention_bias": True}, "has attention_bias True, which gpt has not; name weights of a model of that kind"),
        ({"head_dim": 16}, "head_dim 16, which is not hidden_size / num_attention_heads"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rotary embeddings of type llama3"),
        ({"num_hidden_layers": None}, "is incomplete"),
        ({"num_attention_heads": None}, "is incomplete"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_that_asks_for_another_kind_of_model_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = exported(LLAMA, built(LLAMA).module, tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError) as caught:
        loaded(LLAMA, folder)
    assert str(caught.value).startswith(f"spec.checkpoint.initializeFrom: {path}: ")
    assert words in str(caught.value)


def nothing(folder: Path) -> Path:
    return folder / "nothing"


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def garbage(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(b"\0" * 32)
    return folder


def cut_short(folder: Path) -> Path:
    file = exported(BASE, built(BASE).module, folder, "safetensors") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    return file


def run(folder: Path) -> Path:
    (folder / "latest").touch()
    return folder


def lost_shard(folder: Path) -> Path:
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (nothing, "no such file or folder; name a .safetensors file, or a folder with model.safetensors"),
        (empty, "holds no model.safetensors; write it with save_pretrained or adts export"),
        (garbage, "is no readable safetensors file ("),
        (cut_short, "is no readable safetensors file ("),
        (run, "is a run; write its weights with: adts export "),
        (lost_shard, "model-00001-of-00002.safetensors: is no readable safetensors file (No such file or directory"),
    ],
)
def test_files_that_cannot_be_read_are_named(place: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        loaded(BASE, place(tmp_path))
    assert str(caught.value).startswith(f"spec.checkpoint.initializeFrom: {tmp_path}")
    assert words in str(caught.value)


def test_one_file_of_a_hugging_face_folder_is_not_enough(tmp_path: Path) -> None:
    folder = exported(BASE, built(BASE).module, tmp_path)
    with pytest.raises(CheckpointError, match=r"of this model \(.*; name its folder, which has a config.json"):
        loaded(BASE, folder / "model.safetensors")


def test_a_model_of_the_library_keeps_its_own_config(tmp_path: Path) -> None:
    theirs = random_theirs(LLAMA)
    theirs.save_pretrained(tmp_path / "before")
    model = Model(type="huggingface", path=str(tmp_path / "before"))
    with torch.no_grad():
        assert torch.equal(logits_there(exported(model, theirs, tmp_path)), theirs(IDS).logits)


def test_without_its_config_the_library_cannot_load_it(tmp_path: Path) -> None:
    model = Model(type="huggingface", path=str(tmp_path / "gone"))
    with pytest.raises(CheckpointError, match=r"gone/config\.json: cannot be read .*or export safetensors"):
        exported(model, built(BASE).module, tmp_path)


def test_a_model_that_the_library_lacks_is_not_exported(tmp_path: Path) -> None:
    model = BASE.model_copy(update={"key_value_heads": 2})
    with pytest.raises(CheckpointError, match=r"Hugging Face has no GPT-2 with keyValueHeads 2; export it as safetens"):
        exported(model, built(model).module, tmp_path)


def test_the_tokenizer_goes_with_the_model(tmp_path: Path) -> None:
    words = {f"w{number}": number for number in range(V)}
    tokenizer = tmp_path / "mine.json"
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(tokenizer))
    folder = exported(BASE, built(BASE).module, tmp_path, tokenizer=str(tokenizer))
    again = library().PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert again.convert_tokens_to_ids("w7") == 7
