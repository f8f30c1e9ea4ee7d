"""Models that are not ours, models that do not fit their data, and the message for each mistake."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from adts_api.errors import AdtsError, ConfigError
from adts_api.training import Data, Model
from adts_trainer.batch import Batch, DataFacts
from adts_trainer.errors import DataError, UserCodeError
from adts_trainer.model import BuiltModel, build_model, forward
from support.models import materialize

TOKENS = DataFacts("tokens", vocabulary_size=11)
VECTORS = DataFacts("classification", input_size=3, output_size=2)

USER_CODE = """
import torch
from torch import nn
from types import SimpleNamespace

class Net(nn.Module):
    def __init__(self, width=4, returns="tensor"):
        super().__init__()
        self.returns = returns
        self.embedding = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.adapters = nn.ModuleList([nn.Linear(1, 1)])
        self.head = nn.Linear(width, 11)

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        logits = self.head(x)
        wrapped = SimpleNamespace(logits=logits)
        return {"tensor": logits, "object": wrapped, "tuple": (logits,), "narrow": logits[..., 0]}[self.returns]

def raises(depth):
    raise RuntimeError("no such depth")

def wrong(): return [1, 2]
number = 3
"""


@pytest.fixture(autouse=True)
def user_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(USER_CODE)
    (tmp_path / "my_broken.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)


def custom(factory: str = "my_models:Net", **arguments: Any) -> BuiltModel:
    spec = Model(type="custom", factory=factory, arguments=arguments)
    return build_model(spec, Data(type="tokens", sequence_length=5), TOKENS, seed=7, dtype=torch.float64)


def batch() -> Batch:
    ids = torch.arange(12).reshape(2, 6) % 11
    return Batch(ids[:, :-1], ids[:, 1:], torch.arange(2))


def test_factory_gets_its_arguments_and_the_seed() -> None:
    state = torch.get_rng_state()
    first, second = custom(width=6), custom(width=6)
    assert torch.equal(torch.get_rng_state(), state)  # building a model draws from nobody else's generator
    assert not first.on_meta
    for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == torch.float64
    assert first.layers == list(first.module.blocks)  # the list with most parameters
    assert first.flops_per_sample == 0.0


@pytest.mark.parametrize("returns", ["tensor", "object"])
def test_logits_may_come_as_a_tensor_or_inside_an_object(returns: str) -> None:
    model = custom(returns=returns)
    value = model.loss(forward(model.module, batch()), batch().targets)
    assert value.dtype == torch.float64
    assert value.item() > 0


FACTORIES = [
    (
        "no module",
        "no_such_package.mod:f",
        {},
        r"importing no_such_package\.mod raised ModuleNotFoundError.*PYTHONPATH",
    ),
    ("broken module", "my_broken:f", {}, r"importing my_broken raised ModuleNotFoundError: .*not_installed_anywhere"),
    ("no attribute", "my_models:missing", {}, r"my_models has no attribute missing; check the name"),
    ("not callable", "my_models:number", {}, r"my_models:number is a int, not callable"),
    ("raises", "my_models:raises", {"depth": 3}, r"my_models:raises\(depth=3\) raised RuntimeError: no such depth"),
    ("wrong arguments", "my_models:Net", {"colour": 1}, r"my_models:Net\(colour=1\) raised TypeError: .*colour"),
    ("wrong type", "my_models:wrong", {}, r"my_models:wrong returned list; it must return a torch\.nn\.Module"),
    ("no colon", "my_models.Net", {}, r"'my_models\.Net' is no import path; write package\.module:callable"),
]


@pytest.mark.parametrize(("factory", "arguments", "message"), [c[1:] for c in FACTORIES], ids=[c[0] for c in FACTORIES])
def test_a_factory_that_fails_is_one_message(factory: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserCodeError, match=r"^spec\.model\.factory: " + message):
        custom(factory, **arguments)


OUTPUTS = [
    ("a tuple", "tuple", r"Net returned tuple; its forward must return a tensor"),
    ("no vocabulary", "narrow", r"the model returned \[2, 5\]; the loss needs \[2, 5, 'classes'\]"),
]


@pytest.mark.parametrize(("returns", "message"), [c[1:] for c in OUTPUTS], ids=[c[0] for c in OUTPUTS])
def test_an_output_that_cannot_be_used_is_one_message(returns: str, message: str) -> None:
    model = custom(returns=returns)
    with pytest.raises(UserCodeError, match=message):
        model.loss(forward(model.module, batch()), batch().targets)


MISFITS = [
    ("no type", Model(), TOKENS, "spec.model.type: is empty"),
    ("small vocabulary", Model(type="gpt", vocabulary_size=7), TOKENS,
     "spec.model.vocabularySize: 7 is less than the 11 token ids of the data; use 0 or at least 11"),
    ("unknown vocabulary", Model(type="gpt"), DataFacts("tokens"),
     "spec.model.vocabularySize: 0 takes it from the data, but no .json beside the tokens states it; set it"),
    ("gpt on vectors", Model(type="gpt"), VECTORS, "spec.data.type: gpt models read tokens, not classification"),
    ("mlp on tokens", Model(type="mlp"), TOKENS, "spec.data.type: mlp models read vectors, not tokens"),
    ("inputs differ", Model(type="mlp", input_size=4), VECTORS, "spec.model.inputSize: 4 but the data has 3 features"),
    ("too few classes", Model(type="mlp", output_size=1), VECTORS,
     "spec.model.outputSize: 1 but the data has 2 outputs"),
    ("values differ", Model(type="mlp", output_size=5), DataFacts("regression", input_size=3, output_size=2),
     "spec.model.outputSize: 5 but the data has 2 outputs"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "facts", "message"), [c[1:] for c in MISFITS], ids=[c[0] for c in MISFITS])
def test_model_and_data_that_do_not_fit_are_one_message(spec: Model, facts: DataFacts, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(spec, Data(type="tokens"), facts, seed=0, dtype=torch.float32)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_mlp_takes_its_sizes_from_the_data_and_learns(task: Any) -> None:
    facts = DataFacts(task, input_size=3, output_size=2)
    model = build_model(Model(type="mlp", layers=1, hidden_size=16), Data(), facts, seed=0, dtype=torch.float64)
    materialize(model.module, "cpu", 0)
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = (inputs[:, 0] > 0).long() if task == "classification" else inputs[:, :2] * 2
    data = Batch(inputs, targets, torch.arange(64))
    optimizer, losses = torch.optim.AdamW(model.module.parameters(), lr=0.02), []
    for _ in range(60):
        loss = model.loss(forward(model.module, data), data.targets) / data.valid
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    assert model.flops_per_sample == 6 * sum(p.numel() for p in model.module.parameters())


def huggingface(path: Path | str, pretrained: bool = False) -> BuiltModel:
    spec = Model(type="huggingface", path=str(path), pretrained=pretrained)
    return build_model(spec, Data(type="tokens", sequence_length=5), TOKENS, seed=7, dtype=torch.float64)


def test_without_transformers_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs transformers; run: pip install 'adts-trainer\[huggingface\]'"):
        huggingface(tmp_path)


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers", reason="extra adts-trainer[huggingface] is not installed")
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    folder = tmp_path / "llama"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_local_causal_lm_is_built_fresh_from_the_seed_or_with_its_weights(llama_folder: Path) -> None:
    fresh, again, trained = huggingface(llama_folder), huggingface(llama_folder), huggingface(llama_folder, True)
    logits = [forward(model.module, batch()) for model in (fresh, again, trained)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    assert logits[2].dtype == torch.float64
    assert len(fresh.layers) == 2
    assert isinstance(trained.layers[0], nn.Module)
    assert trained.module.training
    per_layer = 4 * 8 * 8 + 3 * 8 * 16
    assert fresh.flops_per_sample >= 6 * 5 * (2 * per_layer + 11 * 8) + 12 * 2 * 8 * 25
    assert fresh.loss(logits[0], batch().targets).item() > 0


def no_config(folder: Path) -> Path:
    (folder / "config.json").unlink()
    return folder


def wrong_config(folder: Path) -> Path:
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')
    return folder


def no_weights(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    return folder


def damaged_weights(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(b"not weights")
    return folder


FOLDERS = [
    ("missing", lambda f: f / "no", ConfigError, r"no: no such folder; name a local folder with config\.json"),
    ("no config", no_config, ConfigError, r"has no config\.json; save the model there with save_pretrained"),
    ("unknown type", wrong_config, ConfigError, r"is no causal language model: .*no-such-model"),
    ("no weights", no_weights, DataError, r"has no \*\.safetensors; .*set spec\.model\.pretrained to false"),
    ("damaged weights", damaged_weights, DataError, r"cannot load its weights"),
]


@pytest.mark.parametrize(("make", "error", "message"), [c[1:] for c in FOLDERS], ids=[c[0] for c in FOLDERS])
def test_a_folder_that_cannot_be_used_is_one_message(
    llama_folder: Path, make: Any, error: type[AdtsError], message: str
) -> None:
    with pytest.raises(error, match=r"^spec\.model\.path: .*" + message):
        huggingface(make(llama_folder), pretrained=True)
