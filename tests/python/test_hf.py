"""transformers integration: the quantizer, names, dtypes, tied heads, adapters."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from checkpoint_helpers import RECIPE, compress_randomly, file_bytes, logits, metrics_of, tiny_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

import sparlow
from sparlow import hf
from sparlow.layers import SparseLowRankLinear

FAMILIES = ["llama", "qwen2", "gemma", "opt", "gpt2"]


def saved(tmp_path: Path, model: PreTrainedModel, name: str = "model") -> Path:
    return sparlow.save(model, tmp_path / name, metrics=metrics_of(model))


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_from_pretrained_equals_load_equals_original(tmp_path: Path, kind: str, tied: bool) -> None:
    model = compress_randomly(tiny_model(kind, tie_word_embeddings=tied))
    folder = saved(tmp_path, model)
    by_transformers = AutoModelForCausalLM.from_pretrained(folder)
    by_sparlow = sparlow.load(folder)
    assert torch.equal(logits(by_sparlow), logits(model))
    assert torch.equal(logits(by_transformers), logits(model))
    assert by_sparlow.dtype == torch.bfloat16
    assert not by_sparlow.training


@pytest.mark.parametrize("pattern", ["2:4", "0.5@row", "dense"])
@pytest.mark.parametrize("rank", [0, 5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_format_rank_and_dtype_survives(tmp_path: Path, pattern: str, rank: int, dtype: torch.dtype) -> None:
    model = compress_randomly(tiny_model(dtype=dtype), pattern, rank, dtype)
    again = sparlow.load(saved(tmp_path, model))
    state, loaded = model.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(state[name], loaded[name]) and state[name].dtype == loaded[name].dtype for name in state)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_save_load_save_is_bit_identical(tmp_path: Path, kind: str, tied: bool) -> None:
    first = saved(tmp_path, compress_randomly(tiny_model(kind, tie_word_embeddings=tied)), "first")
    second = sparlow.save(sparlow.load(first), tmp_path / "second")
    assert file_bytes(first) == file_bytes(second)


def test_transformers_save_pretrained_round_trip(tmp_path: Path) -> None:
    model = compress_randomly(tiny_model())
    model.save_pretrained(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert torch.equal(logits(again), logits(model))
    again.save_pretrained(tmp_path / "again")
    assert file_bytes(tmp_path / "plain") == file_bytes(tmp_path / "again")


@pytest.mark.parametrize("in_config", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_head_is_decided_by_memory_not_by_config(tmp_path: Path, in_config: bool, tied: bool) -> None:
    model = compress_randomly(tiny_model(tie_word_embeddings=in_config))
    weight = model.get_input_embeddings().weight
    model.lm_head.weight = weight if tied else torch.nn.Parameter(torch.randn_like(weight))
    folder = saved(tmp_path, model)
    again = sparlow.load(folder)
    assert AutoConfig.from_pretrained(folder).tie_word_embeddings is tied
    assert (again.lm_head.weight is again.get_input_embeddings().weight) is tied
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_bare_model_loads_the_same_checkpoint(tmp_path: Path, kind: str) -> None:
    model = compress_randomly(tiny_model(kind))
    bare = AutoModel.from_pretrained(saved(tmp_path, model))
    assert len(hf.compressed_modules(bare)) == len(hf.compressed_modules(model))
    tokens = torch.arange(3, 14).reshape(1, 11)
    with torch.no_grad():  # else a layer that can be trained runs in another way than a frozen one
        expected = model.base_model(tokens).last_hidden_state
        assert torch.equal(bare(tokens).last_hidden_state, expected)


def test_checkpoint_of_a_bare_model_loads_into_both(tmp_path: Path) -> None:
    bare = compress_randomly(tiny_model()).base_model
    hf.attach(bare, RECIPE)
    folder = sparlow.save(bare, tmp_path / "bare", metrics=metrics_of(bare))
    tokens = torch.arange(3, 14).reshape(1, 11)
    with torch.no_grad():
        expected = bare(tokens).last_hidden_state
        assert torch.equal(sparlow.load(folder)(tokens).last_hidden_state, expected)
        whole = AutoModelForCausalLM.from_pretrained(folder)
        assert torch.equal(whole.base_model(tokens).last_hidden_state, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_requested_dtype_reaches_values_but_not_positions(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = saved(tmp_path, compress_randomly(tiny_model()))
    for model in (
        sparlow.load(folder, dtype=dtype),
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype),
    ):
        for module in hf.compressed_modules(model).values():
            assert module.weight_packed.dtype == module.low_rank_u.dtype == module.low_rank_v.dtype == dtype
            assert module.weight_meta is not None
            assert module.weight_meta.dtype == torch.uint8


def test_loaded_packed_weights_are_frozen(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(saved(tmp_path, compress_randomly(tiny_model())))
    assert not any(module.weight_packed.requires_grad for module in hf.compressed_modules(model).values())
    model(torch.arange(3, 14).reshape(1, 11)).logits.float().sum().backward()


@pytest.mark.parametrize("kind", FAMILIES)
def test_dequantize_gives_a_dense_model_that_saves_and_loads(tmp_path: Path, kind: str) -> None:
    model = sparlow.load(saved(tmp_path, compress_randomly(tiny_model(kind, torch.float32), dtype=torch.float32)))
    expected = logits(model)
    dense = model.dequantize()
    assert not hf.compressed_modules(dense)
    torch.testing.assert_close(logits(dense), expected, rtol=1e-4, atol=1e-4)
    dense.save_pretrained(tmp_path / "dense")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    assert torch.equal(logits(again), logits(dense))
    assert not hasattr(again.config, "quantization_config")


def test_dense_model_with_our_config_is_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "dense")
    with pytest.raises(ValueError, match="pre-quantized"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "dense", quantization_config=hf.SparlowConfig())


def test_registration_survives_a_module_reload(tmp_path: Path) -> None:
    folder = saved(tmp_path, compress_randomly(tiny_model()))
    old = hf.SparlowConfig
    reloaded = importlib.reload(hf)
    assert reloaded.SparlowConfig is not old
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["sparlow"] is reloaded.SparlowConfig
    assert AUTO_QUANTIZER_MAPPING["sparlow"] is reloaded.SparlowQuantizer
    AutoModelForCausalLM.from_pretrained(folder)


def test_config_accepts_what_it_writes_and_nothing_else() -> None:
    config = compress_randomly(tiny_model()).config.quantization_config
    assert hf.SparlowConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    with pytest.raises(ValueError, match=r"unknown keys \['bits'\]"):
        hf.SparlowConfig.from_dict(config.to_dict() | {"bits": 4})
    with pytest.raises(ValueError, match=r"sparlow >= 9\.0"):
        hf.SparlowConfig.from_dict(config.to_dict() | {"format_version": 2, "sparlow_version": "9.0"})


def test_layer_table_that_does_not_fit_the_model_is_refused() -> None:
    model = tiny_model()
    entry = {"format": "nm24", "pattern": "2:4", "rank": 0, "shape": [32, 32]}
    layers = hf.layer_table({"model.layers.0.self_attn.k_proj": entry})
    with pytest.raises(ValueError, match="16 x 32, the layer table says 32 x 32"):
        hf.swap_modules(model, layers)
    with pytest.raises(ValueError, match=r"layers\.7.*no such module"):
        hf.swap_modules(model, hf.layer_table({"model.layers.7.mlp": entry}))
    with pytest.raises(ValueError, match="not a linear layer"):
        hf.swap_modules(model, hf.layer_table({"model.layers.0.mlp": entry}))


def test_adapters_attach_train_and_are_not_merged(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = sparlow.load(saved(tmp_path, compress_randomly(tiny_model(dtype=torch.float32), dtype=torch.float32)))
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    tokens = torch.arange(3, 14).reshape(1, 11)
    adapted(tokens, labels=tokens).loss.backward()
    trained = [name for name, p in adapted.named_parameters() if p.grad is not None]
    assert trained
    assert all("lora_" in name for name in trained)
    with pytest.raises(ValueError, match="adapters"):
        sparlow.save(base, tmp_path / "with-adapter")
    with pytest.raises(RuntimeError):
        adapted.merge_and_unload()


def test_device_map_and_offloaded_layers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model = compress_randomly(tiny_model())
    folder = sparlow.save(model, tmp_path / "model", max_shard_bytes=8000)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder, device_map="auto")), logits(model))
    places = dict.fromkeys(("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    places["model.layers.1"] = "disk"
    partly = AutoModelForCausalLM.from_pretrained(folder, device_map=places, offload_folder=tmp_path / "offload")
    assert torch.equal(logits(partly), logits(model))


def test_loaded_model_compiles_as_one_graph(tmp_path: Path) -> None:
    model = sparlow.load(saved(tmp_path, compress_randomly(tiny_model(dtype=torch.float32), dtype=torch.float32)))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(logits(compiled), logits(model))


def test_mixture_of_experts_keeps_its_stacked_experts(tmp_path: Path) -> None:
    config = MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64,
    )  # fmt: skip
    model = compress_randomly(MixtralForCausalLM._from_config(config, dtype=torch.bfloat16).eval())
    folder = saved(tmp_path, model)
    assert torch.equal(logits(sparlow.load(folder)), logits(model))
    assert file_bytes(folder) == file_bytes(sparlow.save(sparlow.load(folder), tmp_path / "again"))


def test_generate_runs(tmp_path: Path) -> None:
    model = sparlow.load(saved(tmp_path, compress_randomly(tiny_model())))
    out = model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert out.shape == (1, 7)
    assert any(isinstance(module, SparseLowRankLinear) for module in model.modules())
