"""Layers trace whole, so that torch.compile may take each; dropout drops the same activations when traced."""

import pytest
import torch

from adts_api.training import Data, Model
from adts_trainer.batch import Batch, DataFacts
from adts_trainer.model import build_model, forward
from support.models import materialize


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at every input
@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_compiled_layers_equal_eager_ones(shape: str) -> None:
    spec = Model(type="gpt", shape=shape, layers=2, hidden_size=16, heads=4, key_value_heads=2, dropout=0.3)
    model = build_model(
        spec, Data(type="tokens", sequence_length=8), DataFacts("tokens", 11), seed=0, dtype=torch.float64
    )
    materialize(model.module, "cpu", 0)
    ids = torch.arange(18).reshape(2, 9) % 11
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.tensor([5, -6]))
    results = []
    for compiled in (False, True):
        if compiled:
            for layer in model.layers:
                layer.compile(backend="aot_eager", fullgraph=True)
        model.module.zero_grad()
        loss = model.loss(forward(model.module, batch), batch.targets)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.module.parameters())])
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager, rtol=0, atol=1e-12)
