"""The gpt in both shapes, in fp64, against a second implementation written here from the formulas."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adts_api.training import Data, Model
from adts_trainer.batch import Batch, DataFacts
from adts_trainer.model import BuiltModel, build_model, forward
from adts_trainer.models.gpt import intermediate_size, rotate
from support.models import materialize

V, T = 11, 7
GPT2 = Model(type="gpt", shape="gpt2", layers=2, hidden_size=12, heads=3)
LLAMA = Model(type="gpt", shape="llama", layers=2, hidden_size=16, heads=4, key_value_heads=2, intermediate_size=20)
GROUPED_GPT2 = GPT2.model_copy(update={"key_value_heads": 1, "tie_embeddings": False})
SPECS = {"gpt2": GPT2, "llama": LLAMA, "gpt2 one key head, untied": GROUPED_GPT2}
every_shape = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def built(spec: Model, **changes: Any) -> BuiltModel:
    spec = spec.model_copy(update=changes)
    model = build_model(
        spec, Data(type="tokens", sequence_length=T), DataFacts("tokens", V), seed=3, dtype=torch.float64
    )
    materialize(model.module, "cpu", 3)
    with torch.no_grad():  # biases and norms start at constants that would hide mistakes
        for index, parameter in enumerate(model.module.parameters()):
            generator = torch.Generator().manual_seed(index)
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.3)
    return model


def tokens(B: int = 2, seed: int = 0) -> Batch:
    ids = torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(seed))
    return Batch(ids[:, :-1], ids[:, 1:], torch.arange(B))


def reference(module: nn.Module, spec: Model, ids: Tensor) -> Tensor:
    """Logits of one sequence [T], one head at a time, loops instead of kernels."""
    p, llama = dict(module.named_parameters(remove_duplicate=False)), spec.shape == "llama"
    D, group = spec.hidden_size // spec.heads, spec.heads // (spec.key_value_heads or spec.heads)

    def norm(x: Tensor, name: str) -> Tensor:
        if llama:
            return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"]
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", torch.zeros((), dtype=x.dtype))

    def turn(x: Tensor) -> Tensor:
        rows = []
        for t in range(len(x)):
            out = x[t].clone()
            for i in range(D // 2):
                angle = t * spec.rope_theta ** (-2 * i / D)
                a, b = x[t, i], x[t, i + D // 2]
                out[i] = a * math.cos(angle) - b * math.sin(angle)
                out[i + D // 2] = b * math.cos(angle) + a * math.sin(angle)
            rows.append(out)
        return torch.stack(rows) if llama else x

    x = p["token_embedding.weight"][ids]
    x = x if llama else x + p["position_embedding.weight"][: len(ids)]
    for layer in range(spec.layers):
        at = f"layers.{layer}"
        y = norm(x, f"{at}.attention_norm")
        q, k, v = (linear(y, f"{at}.attention.{n}") for n in "qkv")
        heads = []
        for head in range(spec.heads):
            own, shared = slice(head * D, (head + 1) * D), slice(head // group * D, (head // group + 1) * D)
            scores = turn(q[:, own]) @ turn(k[:, shared]).T / math.sqrt(D)
            scores = scores.masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), float("-inf"))
            heads.append(scores.softmax(-1) @ v[:, shared])
        x = x + linear(torch.cat(heads, dim=-1), f"{at}.attention.o")
        y = norm(x, f"{at}.feed_forward_norm")
        up = linear(y, f"{at}.feed_forward.up")
        if llama:
            gate = linear(y, f"{at}.feed_forward.gate")
            inner = gate / (1 + (-gate).exp()) * up
        else:
            inner = up * 0.5 * (1 + torch.erf(up / math.sqrt(2)))
        x = x + linear(inner, f"{at}.feed_forward.down")
    return norm(x, "final_norm") @ p["head.weight"].T


@every_shape
def test_logits_equal_the_formulas(spec: Model) -> None:
    model, batch = built(spec), tokens()
    expected = torch.stack([reference(model.module, spec, row) for row in batch.inputs])
    torch.testing.assert_close(forward(model.module, batch), expected, rtol=0, atol=1e-12)


@every_shape
def test_a_later_token_never_changes_an_earlier_logit(spec: Model) -> None:
    model, batch = built(spec), tokens()
    before = forward(model.module, batch)
    for t in range(1, T):
        inputs = batch.inputs.clone()
        inputs[:, t] = (inputs[:, t] + 1) % V
        after = forward(model.module, Batch(inputs, batch.targets, batch.keys))
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-13)
        assert not torch.allclose(after[:, t:], before[:, t:])


@every_shape
def test_gradients_equal_finite_differences(spec: Model) -> None:
    model, batch = built(spec), tokens()
    loss = model.loss(forward(model.module, batch), batch.targets)
    loss.backward()
    epsilon = 1e-6
    for name, parameter in model.module.named_parameters():
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * epsilon)
                values.append(model.loss(forward(model.module, batch), batch.targets).item())
                parameter.sub_(direction, alpha=sign * epsilon)
        numeric = (values[0] - values[1]) / (2 * epsilon)
        assert parameter.grad is not None, name
        assert (parameter.grad * direction).sum().item() == pytest.approx(numeric, rel=1e-6, abs=1e-6), name


def test_grouped_queries_equal_repeated_key_and_value_heads() -> None:
    grouped, full = built(LLAMA), built(LLAMA, key_value_heads=4)
    weights = dict(grouped.module.state_dict())
    for name in [n for n in weights if n.endswith(("attention.k.weight", "attention.v.weight"))]:
        weights[name] = weights[name].view(2, 4, 16).repeat_interleave(2, dim=0).reshape(16, 16)
    full.module.load_state_dict(weights)
    batch = tokens()
    torch.testing.assert_close(forward(full.module, batch), forward(grouped.module, batch), rtol=0, atol=1e-12)


def test_rotary_scores_depend_on_distance_only() -> None:
    q, k = (torch.randn(8, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    length = 20
    rows = [rotate(x.expand(1, length, 1, 8), 100.0)[0, :, 0] for x in (q, k)]
    scores = rows[0] @ rows[1].T
    for distance in range(length):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-12)
    torch.testing.assert_close(rows[0].norm(dim=-1), q.norm().expand(length), rtol=0, atol=1e-12)
    assert not torch.allclose(scores[0, 0], scores[1, 0])


@pytest.mark.parametrize(
    "moved", [lambda m: m.to(torch.float32), lambda m: m.to_empty(device="cpu"), lambda m: m.double()]
)
def test_tied_embedding_is_one_parameter_whatever_happens_to_the_module(moved: Any) -> None:
    module = moved(built(GPT2).module)
    assert module.head.weight is module.token_embedding.weight
    assert "head.weight" not in dict(module.named_parameters())


def test_tied_embedding_gathers_the_gradient_of_both_uses() -> None:
    tied, untied = built(GPT2), built(GPT2, tie_embeddings=False)
    untied.module.load_state_dict(tied.module.state_dict())
    batch = tokens()
    for model in (tied, untied):
        model.loss(forward(model.module, batch), batch.targets).backward()
    both = untied.module.token_embedding.weight.grad + untied.module.head.weight.grad
    torch.testing.assert_close(tied.module.token_embedding.weight.grad, both, rtol=0, atol=1e-12)


@every_shape
def test_recomputed_layers_drop_the_same_activations(spec: Model) -> None:
    model, batch = built(spec, dropout=0.4), tokens()
    model.loss(forward(model.module, batch), batch.targets).backward()
    plain = {n: p.grad.clone() for n, p in model.module.named_parameters()}
    model.module.zero_grad()
    for layer in model.layers:
        inner = layer.forward
        layer.forward = lambda *a, inner=inner: checkpoint(inner, *a, use_reentrant=False, preserve_rng_state=False)
    model.loss(forward(model.module, batch), batch.targets).backward()
    for name, parameter in model.module.named_parameters():
        assert torch.equal(parameter.grad, plain[name]), name


@every_shape
def test_dropout_follows_the_sample_not_the_batch_and_is_off_in_evaluation(spec: Model) -> None:
    model, batch = built(spec, dropout=0.4), tokens(B=4)
    whole = forward(model.module, batch)
    parts = torch.cat([forward(model.module, part) for part in batch.split(4)])
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-12)
    other = Batch(batch.inputs, batch.targets, batch.keys + 1)
    assert not torch.allclose(whole, forward(model.module, other))
    model.module.eval()
    torch.testing.assert_close(forward(model.module, batch), forward(model.module, other), rtol=0, atol=0)


def test_sizes_of_the_feed_forward() -> None:
    assert intermediate_size(GPT2) == 48
    assert intermediate_size(Model(type="gpt", shape="llama", hidden_size=4096)) == 10944
    assert intermediate_size(LLAMA) == 20


def test_layers_and_names_are_what_sharding_and_export_rely_on() -> None:
    model = built(LLAMA)
    assert model.layers == list(model.module.layers)
    names = [name for name, _ in model.module.named_parameters()]
    assert sorted(n.removeprefix("layers.0.") for n in names if n.startswith("layers.0.")) == [
        "attention.k.weight", "attention.o.weight", "attention.q.weight", "attention.v.weight", "attention_norm.weight",
        "feed_forward.down.weight", "feed_forward.gate.weight", "feed_forward.up.weight", "feed_forward_norm.weight",
    ]  # fmt: skip
    assert sorted(n for n in names if not n.startswith("layers.")) == ["final_norm.weight", "token_embedding.weight"]
    assert not list(model.module.buffers())


def test_flops_of_gpt2_small_are_the_known_number() -> None:
    spec = Model(type="gpt", layers=12, hidden_size=768, heads=12)
    model = build_model(
        spec, Data(type="tokens", sequence_length=1024), DataFacts("tokens", 50257), seed=0, dtype=torch.float32
    )
    assert sum(p.numel() for p in model.module.parameters()) == 124_439_808
    per_token = model.flops_per_sample / 1024
    assert per_token == 6 * (12 * 12 * 768**2 + 50257 * 768) + 12 * 12 * 768 * 1024
