"""Whole models with packed layers: loading, saving, memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import sparlow
from sparlow.hf import compressed_modules

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from checkpoint_helpers import compress_randomly, file_bytes, logits, metrics_of, tiny_model

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return compress_randomly(tiny_model("qwen2"))


@pytest.fixture(scope="module")
def folder(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sparlow.save(model, tmp_path_factory.mktemp("packed") / "model", metrics=metrics_of(model))


def packed_count(model: PreTrainedModel) -> tuple[int, int]:
    layers = compressed_modules(model).values()
    return sum(layer.is_packed for layer in layers), len(layers)


def test_save_from_the_gpu_is_bit_identical(folder: Path, tmp_path: Path) -> None:
    loaded = sparlow.load(folder, device="cuda")
    packed, layers = packed_count(loaded)
    assert packed == layers > 0
    assert file_bytes(sparlow.save(loaded, tmp_path / "again")) == file_bytes(folder)
    assert packed_count(loaded) == (layers, layers)


def test_every_way_of_loading_packs(folder: Path, model: PreTrainedModel) -> None:
    want = logits(model)
    placed = AutoModelForCausalLM.from_pretrained(folder, device_map="cuda", dtype="auto")
    moved = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to("cuda")
    for found in (placed, moved):
        packed, layers = packed_count(found)
        assert packed == layers > 0
        with torch.no_grad():
            y = found(torch.arange(3, 25, device="cuda").reshape(2, 11)).logits
        torch.testing.assert_close(y.cpu(), want, rtol=5e-2, atol=5e-2)
    assert packed_count(moved.train())[0] == 0
    assert packed_count(moved.eval().cpu())[0] == 0


def test_memory_while_loading_stays_below_the_packed_model_and_one_layer(tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 6}
    model = compress_randomly(tiny_model("llama", **sizes), rank=16)
    largest = max(layer.stored_bytes for layer in compressed_modules(model).values())
    folder = sparlow.save(model, tmp_path / "model", metrics=metrics_of(model))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loaded = sparlow.load(folder, device="cuda")
    assert packed_count(loaded) == (42, 42)
    held, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    assert peak <= held + 2.2 * largest  # a layer's tensors beside its buffer, for a moment


def test_generation_with_packed_layers(folder: Path) -> None:
    loaded = sparlow.load(folder, device="cuda")
    prompt = torch.tensor([[3, 4, 5]], device="cuda")
    out = loaded.generate(prompt, max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert out.shape == (1, 9)
