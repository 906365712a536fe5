"""Byte accounting and the card."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from checkpoint_helpers import compress_randomly, metrics_of, tiny_model

import sparlow
from sparlow import hf
from sparlow.inspect import inspect_checkpoint


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("pattern", ["2:4", "0.5@row", "dense"])
def test_bytes_are_those_of_the_files(tmp_path: Path, kind: str, tied: bool, pattern: str) -> None:
    model = compress_randomly(tiny_model(kind, tie_word_embeddings=tied), pattern)
    folder = sparlow.save(model, tmp_path / "model", max_shard_bytes=20_000)
    found = inspect_checkpoint(folder)
    assert found.disk_bytes == sum(path.stat().st_size for path in folder.iterdir())
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= safetensors.torch.load_file(path)
    assert found.tensor_bytes == sum(t.numel() * t.element_size() for t in tensors.values())
    modules = hf.compressed_modules(model)
    assert {layer.name: layer.stored_bytes for layer in found.layers} == {
        name: module.stored_bytes for name, module in modules.items()
    }
    dense = model.dequantize().to(torch.bfloat16)
    assert found.dense_tensor_bytes == sum(2 * p.numel() for p in dense.parameters())
    assert found.dense_layer_bytes == sum(2 * m.in_features * m.out_features for m in modules.values())


def test_a_2_to_4_layer_costs_its_exact_share(tmp_path: Path) -> None:
    model = compress_randomly(tiny_model(), rank=4)
    found = inspect_checkpoint(sparlow.save(model, tmp_path / "model"))
    for layer in found.layers:
        d_out, d_in, rank = layer.spec.d_out, layer.spec.d_in, layer.spec.rank
        assert layer.sparse_bytes == 0.5625 * layer.dense_bytes
        assert layer.low_rank_bytes == 2 * rank * (d_out + d_in)
        assert math.isclose(layer.ratio, 0.5625 + rank * (d_out + d_in) / (d_out * d_in))


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_reads_one_row_of_the_embeddings_and_the_whole_head(tmp_path: Path, tied: bool) -> None:
    model = compress_randomly(tiny_model(tie_word_embeddings=tied))
    found = inspect_checkpoint(sparlow.save(model, tmp_path / "model"))
    table, row = 64 * 32 * 2, 32 * 2
    saved = 0 if tied else table - row
    assert found.token_bytes == found.tensor_bytes - saved
    assert found.dense_token_bytes == found.dense_tensor_bytes - saved


def test_no_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sparlow.save(compress_randomly(tiny_model()), tmp_path / "model")
    with (folder / "model.safetensors").open("r+b") as file:
        end = file.seek(0, 2)
        start = 8 + int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
        file.seek(start)
        file.write(b"\xff" * (end - start))
    monkeypatch.setattr("safetensors.safe_open", None)
    assert inspect_checkpoint(folder).layers


def test_unfinished_folder_is_refused(tmp_path: Path) -> None:
    folder = sparlow.save(compress_randomly(tiny_model()), tmp_path / "model")
    (folder / "sparlow.json").unlink()
    with pytest.raises(ValueError, match="not a finished"):
        inspect_checkpoint(folder)
    with pytest.raises(FileNotFoundError):
        inspect_checkpoint(tmp_path / "nowhere")


def test_card_tells_what_a_reader_needs(tmp_path: Path) -> None:
    model = compress_randomly(tiny_model())
    metrics = metrics_of(model)
    evaluation = {"perplexity": {"dense": 12.3456, "compressed": 15.0}, "tokens": 4096}
    folder = sparlow.save(
        model, tmp_path / "model", metrics=metrics, evaluation=evaluation, base_model="someone/tiny-llama"
    )
    text = (folder / "README.md").read_text()
    front, body = text.split("---\n")[1:3]
    assert yaml.safe_load(front)["base_model"] == "someone/tiny-llama"
    code = body.split("```python\n")[1].split("```")[0]
    assert code.startswith("import sparlow")
    recipe = body.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(recipe)["pattern"] == "2:4"
    assert all(f"| `{name}` | 2:4 | nm24 |" in body for name in hf.compressed_modules(model))
    assert "| perplexity dense | 12.35 |" in body
    assert "expect no speed-up over the dense model" in " ".join(body.split())
    found = inspect_checkpoint(folder)
    assert f"| compressed layers | {found.layer_bytes:,} | {found.dense_layer_bytes:,} |" in body


def test_card_names_no_local_path(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "dense")
    model = type(tiny_model()).from_pretrained(tmp_path / "dense")
    folder = sparlow.save(compress_randomly(model), tmp_path / "model")
    for name in ("README.md", "config.json", "sparlow.json"):
        assert str(tmp_path) not in (folder / name).read_text()
