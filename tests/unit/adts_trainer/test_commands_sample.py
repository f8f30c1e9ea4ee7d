"""`adts sample` and `adts export` on a checkpoint folder as the loop leaves it."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from adts_api.training import Data, Model
from adts_api.v1alpha1 import Spec
from adts_trainer.batch import Batch, DataFacts
from adts_trainer.commands.export import export
from adts_trainer.commands.sample import sample
from adts_trainer.errors import CheckpointError
from adts_trainer.model import build_model, forward
from adts_trainer.model_card import write_model_card
from support.models import materialize

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
SPEC = Spec(model=Model(type="gpt", layers=1, hidden_size=32, heads=2), data=Data(type="text", sequence_length=16))
TEXT = b"the quick brown fox\0"


def run_folder(folder: Path, facts: DataFacts, model: torch.nn.Module) -> Path:
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    dcp.save({"model": dict(model.named_parameters())}, checkpoint_id=checkpoints / "3-1", no_dist=True)
    (checkpoints / "latest").write_text(json.dumps({"directory": "3-1", "step": 3}))
    write_model_card(checkpoints / "model.json", SPEC, facts)
    return folder


@pytest.fixture(scope="module")
def parrot() -> torch.nn.Module:
    """A model that knows one line by heart."""
    built = build_model(SPEC.model, SPEC.data, DataFacts("tokens", 256), seed=0, dtype=torch.float32)
    materialize(built.module, "cpu", 0)
    tokens = torch.tensor(list(b"\0" + TEXT * 3))
    windows = tokens.unfold(0, 17, 1)
    batch = Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), torch.zeros(len(windows)).long())
    optimizer = torch.optim.AdamW(built.module.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        (built.loss(forward(built.module, batch), batch.targets) / batch.valid).backward()
        optimizer.step()
    return built.module


@pytest.fixture
def folder(tmp_path: Path, parrot: torch.nn.Module) -> Path:
    return run_folder(tmp_path / "run", DataFacts("tokens", 256, tokenizer="bytes"), parrot)


def adts(command: object, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])  # type: ignore[arg-type]


def test_sample_continues_what_the_model_learnt(folder: Path) -> None:
    result = adts(sample, folder, "--prompt", "the q", "--tokens", "14", "--temperature", "0")
    assert result.exit_code == 0, result.output
    assert result.output == "the quick brown fox\n"


def test_sample_without_a_prompt_starts_a_document(folder: Path) -> None:
    assert adts(sample, folder, "--tokens", "19", "--top-k", "1").output == "the quick brown fox\n"


def test_sample_repeats_itself_with_the_same_seed_only(folder: Path) -> None:
    arguments = [folder, "--temperature", "3", "--tokens", "40"]
    first = adts(sample, *arguments).output
    assert first == adts(sample, *arguments).output
    assert first != adts(sample, *arguments, "--seed", "1").output


def test_ids_beyond_the_tokenizer_are_never_drawn(tmp_path: Path, folder: Path) -> None:
    vocabulary = {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}}
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(json.dumps(vocabulary))
    result = adts(sample, folder, "--tokenizer", tokenizer, "--prompt", "a", "--tokens", "30", "--temperature", "50")
    assert result.exit_code == 0, result.output
    assert set(result.output.split()) == {"a", "b"}


WRONG = [
    (
        "unknown tokenizer",
        DataFacts("tokens", 256),
        "does not say which tokenizer its tokens came from; add --tokenizer",
    ),
    ("no language model", DataFacts("classification", input_size=3, output_size=2), "only language models write text"),
]


@pytest.mark.parametrize(("facts", "message"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_what_cannot_be_sampled_is_one_message(
    tmp_path: Path, parrot: torch.nn.Module, facts: DataFacts, message: str
) -> None:
    result = adts(sample, run_folder(tmp_path / "run", facts, parrot))
    assert isinstance(result.exception, CheckpointError)
    assert message in str(result.exception)


def test_export_writes_every_parameter(folder: Path, parrot: torch.nn.Module, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    result = adts(export, folder, "--out", out)
    assert result.exit_code == 0, result.output
    written, expected = load_file(out), dict(parrot.named_parameters())
    assert written.keys() == expected.keys()
    for name, tensor in written.items():
        assert torch.equal(tensor, expected[name].detach()), name
    assert f"{out}: step 3, {sum(p.numel() for p in expected.values()):,} parameters" in result.output


def test_export_for_hugging_face_is_a_folder(folder: Path, parrot: torch.nn.Module, tmp_path: Path) -> None:
    out = tmp_path / "model"
    result = adts(export, folder, "--out", out, "--format", "huggingface")
    assert f"{out}: step 3, {sum(p.numel() for p in parrot.parameters()):,} parameters" in result.output
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((out / "config.json").read_text())["model_type"] == "gpt2"


def test_export_of_a_folder_without_a_checkpoint_is_one_message(tmp_path: Path) -> None:
    result = adts(export, tmp_path, "--out", tmp_path / "model.safetensors")
    assert isinstance(result.exception, CheckpointError)
    assert "holds no checkpoint" in str(result.exception)
