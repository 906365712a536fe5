"""Stacked layers on the GPU: the same bits as one by one, one launch, compiled and captured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import sparlow
from sparlow import packed_ops
from sparlow.hf import compressed_modules

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from checkpoint_helpers import compress_randomly, file_bytes, metrics_of, tiny_model

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]
SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}


def make(family: str) -> PreTrainedModel:
    torch.manual_seed(1)
    model = compress_randomly(tiny_model(family, **SIZES), rank=16)
    sparlow.stack(model)
    return model


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@torch.no_grad()
def test_stacked_layers_and_layers_one_by_one(family: str) -> None:
    model = make(family).cuda().eval()
    layers = [layer for layer in compressed_modules(model).values() if layer.stack is not None]
    assert len(layers) == 10
    for tokens in (1, 3, 8, 17, 64, 129, 1030):
        ids = torch.randint(64, (1, tokens), device="cuda")
        stacked = model(ids).logits
        sparlow.unstack(model)
        torch.testing.assert_close(stacked, model(ids).logits, rtol=2e-2, atol=2e-2)
        sparlow.stack(model)


@torch.no_grad()
def test_parts_and_the_whole() -> None:
    mlp = make("llama").cuda().eval().model.layers[0].mlp
    stack = mlp.gate_proj.stack
    for tokens in (1, 8, 33, 200):
        x = torch.randn(tokens, 256, device="cuda").bfloat16()
        alone = [member(x) for member in stack.members]
        stack.enter()
        together = [member(x) for member in stack.members]
        stack.leave()
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
    torch.library.opcheck(packed_ops.nm24_stack, (x, stack.buffer.detach(), [], stack.rows, stack.shape.rank, -1))


@torch.no_grad()
def test_compiled_and_captured() -> None:
    mlp = make("llama").cuda().eval().model.layers[0].mlp
    x = torch.randn(1, 3, 256, device="cuda").bfloat16()
    compiled = torch.compile(mlp, fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(x), mlp(x), rtol=2e-2, atol=2e-2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = mlp(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(y, mlp(x))


def test_saving_from_the_gpu(tmp_path: Path) -> None:
    model = make("qwen2")
    folder = sparlow.save(model, tmp_path / "model", metrics=metrics_of(model))
    loaded = sparlow.load(folder, device="cuda")
    assert compressed_modules(loaded)["model.layers.0.self_attn.v_proj"].stack is not None
    assert file_bytes(sparlow.save(loaded, tmp_path / "again")) == file_bytes(folder)
