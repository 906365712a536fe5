"""compress() and plan() on tiny models of every family: results, records, refusals, and what is left behind."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from families import COMMON, FAMILIES, tiny_model

from sparlow.api import compress, plan
from sparlow.layers import SparseLowRankLinear
from sparlow.models import find_blocks, linears_of
from sparlow.recipe import Recipe
from sparlow.records import LayerRecord
from sparlow.solve import relative_loss

_TOKENS = torch.randint(0, 96, (8, 12), generator=torch.Generator().manual_seed(7))
_CALIBRATION = {"windows": 8, "window_tokens": 12, "batch": 3}


def _recipe(**changes: Any) -> Recipe:
    data = {
        "rank": 4,
        "dtype": "float32",
        "options": {"iterations": 20},
        "calibration": _CALIBRATION,
        **changes,
    }
    if data.get("method", "threebasil") != "threebasil":
        data = {key: value for key, value in data.items() if key not in ("rank", "options")}
    return Recipe.from_dict(data)


class _Watcher:
    """A progress that remembers, and can fail at a given layer."""

    def __init__(self, fail_after: int | None = None, error: BaseException | None = None) -> None:
        self.started: tuple[int, int] | None = None
        self.blocks: list[int] = []
        self.layers: list[LayerRecord] = []
        self.notes: list[str] = []
        self._fail_after, self._error = fail_after, error

    def start(self, total_blocks: int, total_layers: int) -> None:
        self.started = (total_blocks, total_layers)

    def block(self, index: int) -> None:
        self.blocks.append(index)

    def layer(self, record: LayerRecord) -> None:
        self.layers.append(record)
        if len(self.layers) == self._fail_after and self._error is not None:
            raise self._error

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_is_replaced_and_the_model_still_runs(family: str) -> None:
    model = tiny_model(family)
    blocks = find_blocks(model)
    names = [layer.name for block in blocks for layer in linears_of(block)]
    watcher = _Watcher()
    result = compress(model, _recipe(), tokens=_TOKENS, progress=watcher)
    assert result.model is model
    assert sorted(record.name for record in result.layers) == sorted(names)
    assert watcher.layers == result.layers
    assert watcher.started == (len(blocks), len(names))
    assert watcher.blocks == list(range(len(blocks)))
    assert all(isinstance(model.get_submodule(name), SparseLowRankLinear) for name in names)
    assert not isinstance(model.get_output_embeddings(), SparseLowRankLinear)
    assert torch.isfinite(model(input_ids=_TOKENS).logits).all()
    assert result.calibration_hash is not None


def test_later_blocks_see_what_earlier_compressed_blocks_make() -> None:
    model, reference = tiny_model("llama"), tiny_model("llama")
    result = compress(model, _recipe(method="wanda"), tokens=_TOKENS)
    name = "model.layers.2.mlp.down_proj"
    record = next(record for record in result.layers if record.name == name)
    dense = reference.get_submodule(name).weight.detach().clone()
    # The stream of the record: blocks 0 and 1 compressed, block 2 dense.
    reference.model.layers[0], reference.model.layers[1] = model.model.layers[0], model.model.layers[1]
    inputs: list[torch.Tensor] = []
    reference.get_submodule(name).register_forward_pre_hook(lambda _m, args: inputs.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        reference(input_ids=_TOKENS, use_cache=False)
    x = inputs[0]
    expected = relative_loss(dense, model.get_submodule(name).dense_weight(), x.T @ x)
    assert record.stored_relative_loss == pytest.approx(expected, rel=1e-4)
    assert record.relative_loss == pytest.approx(expected, rel=1e-4)
    assert record.tokens == _TOKENS.numel()


def test_records_say_what_was_stored() -> None:
    result = compress(tiny_model("llama"), _recipe(dtype="bfloat16"), tokens=_TOKENS)
    for record in result.layers:
        layer = result.model.get_submodule(record.name)
        assert (record.format, record.rank, record.pattern) == ("nm24", 4, "2:4")
        assert (record.d_out, record.d_in) == (layer.out_features, layer.in_features)
        assert record.dense_bytes == 2 * record.d_out * record.d_in
        assert record.stored_bytes == layer.stored_bytes
        assert record.density == 0.5
        assert record.relative_loss is not None
        assert record.stored_relative_loss is not None
        assert record.relative_loss > 0
        # Rounding to bfloat16 changes it, but only a little.
        assert 0 < abs(record.stored_relative_loss - record.relative_loss) < 1e-3


def test_the_whole_model_gets_the_stored_dtype_but_rotary_tables_stay_float32() -> None:
    result = compress(tiny_model("llama"), _recipe(dtype="bfloat16"), tokens=_TOKENS)
    floats = {p.dtype for p in result.model.parameters() if p.is_floating_point()}
    assert floats == {torch.bfloat16}
    assert result.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert result.model.config.dtype == torch.bfloat16
    assert result.model.config.quantization_config.quant_method == "sparlow"


def test_three_basil_beats_wanda_beats_magnitude() -> None:
    losses = {}
    for method in ("magnitude", "wanda", "threebasil"):
        recipe = _recipe(method=method) if method != "threebasil" else _recipe(rank=0)
        result = compress(tiny_model("llama"), recipe, tokens=_TOKENS)
        losses[method] = sum(record.relative_loss or 0.0 for record in result.layers[:7])
    assert losses["threebasil"] < losses["wanda"] < losses["magnitude"]


def test_same_seed_same_bits() -> None:
    first, second = (compress(tiny_model("qwen2"), _recipe(), tokens=_TOKENS) for _ in range(2))
    for (name, a), (_, b) in zip(first.model.state_dict().items(), second.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert first.calibration_hash == second.calibration_hash


def test_biases_and_conv1d_keep_their_function() -> None:
    model, dense = tiny_model("gpt2"), tiny_model("gpt2")
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
                model.get_parameter(name).copy_(parameter)
    compress(model, _recipe(pattern="dense", rank=0), tokens=_TOKENS)
    torch.testing.assert_close(model(input_ids=_TOKENS).logits, dense(input_ids=_TOKENS).logits, rtol=1e-4, atol=1e-4)


def test_magnitude_needs_no_calibration_and_has_no_loss() -> None:
    result = compress(tiny_model("llama"), _recipe(method="magnitude"))
    assert result.calibration_hash is None
    assert all(record.relative_loss is None and record.stored_relative_loss is None for record in result.layers)
    assert {record.tokens for record in result.layers} == {0}


def test_magnitude_with_calibration_reports_its_loss() -> None:
    result = compress(tiny_model("llama"), _recipe(method="magnitude"), tokens=_TOKENS)
    assert all(record.relative_loss is not None and record.relative_loss > 0 for record in result.layers)


def test_overrides_within_one_input_group() -> None:
    overrides = [
        {"match": "re:.*k_proj", "method": "wanda"},
        {"match": "re:.*v_proj", "pattern": "0.5@row", "rank": 2},
        {"match": "re:.*q_proj", "rank": 8},
    ]
    result = compress(tiny_model("llama"), _recipe(overrides=overrides, exclude=["re:.*mlp.*"]), tokens=_TOKENS)
    found = {r.name.rpartition(".")[2]: (r.method, r.pattern, r.rank, r.format) for r in result.layers}
    assert found == {
        "q_proj": ("threebasil", "2:4", 8, "nm24"),
        "k_proj": ("wanda", "2:4", 0, "nm24"),
        "v_proj": ("threebasil", "0.5@row", 2, "bitmap"),
        "o_proj": ("threebasil", "2:4", 4, "nm24"),
    }


def test_blocks_after_the_last_match_are_not_passed() -> None:
    watcher = _Watcher()
    model = tiny_model("llama")
    compress(model, _recipe(include=["model.layers.1.mlp.up_proj"]), tokens=_TOKENS, progress=watcher)
    assert watcher.started == (2, 1)
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear


def test_experts_are_noted() -> None:
    config = hf.Qwen2MoeConfig(
        **{**COMMON, "num_hidden_layers": 2},
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
    )
    watcher = _Watcher()
    compress(hf.AutoModelForCausalLM.from_config(config), _recipe(), tokens=_TOKENS, progress=watcher)
    assert "model.layers.*.mlp.experts.gate_up_proj (2 blocks)" in watcher.notes[0]
    assert len(watcher.layers) == 14


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken")])
def test_an_interrupted_run_leaves_the_model_as_it_was(error: BaseException) -> None:
    model = tiny_model("llama").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = dict(model.named_modules())
    with pytest.raises(type(error)):
        compress(model, _recipe(dtype="bfloat16"), tokens=_TOKENS, progress=_Watcher(10, error))
    assert dict(model.named_modules()) == modules
    assert model.training
    after = model.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    assert getattr(model.config, "quantization_config", None) is None


def test_a_compressed_model_is_not_compressed_again() -> None:
    model = compress(tiny_model("llama"), _recipe(), tokens=_TOKENS).model
    with pytest.raises(ValueError, match="already compressed"):
        compress(model, _recipe(), tokens=_TOKENS)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_weights_name_the_layer(value: float) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = value
    with pytest.raises(
        ValueError, match=r"model\.layers\.1\.mlp\.up_proj: its weight holds . (NaN|Inf)|Inf among 1536"
    ):
        compress(model, _recipe(), tokens=_TOKENS)


def test_non_finite_activations_name_the_layer() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].post_attention_layernorm.weight[3] = math.nan
    with pytest.raises(
        ValueError, match=r"model\.layers\.1\.mlp\.gate_proj = model\.layers\.1\.mlp\.up_proj: .* NaN or Inf"
    ):
        compress(model, _recipe(), tokens=_TOKENS)


def test_an_input_that_is_always_zero_names_its_layers() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight.zero_()
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.q_proj = .*v_proj: the Gram matrix is zero"):
        compress(model, _recipe(), tokens=_TOKENS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "3:5"}, r"model\.layers\.0\.self_attn\.q_proj: d_in = 32 is not divisible by 5"),
        ({"rank": 17}, r"model\.layers\.0\.self_attn\.k_proj: rank 17 is larger than .* 16"),
        ({"include": ["re:.*qproj"]}, "matches none of the 21 linear layers"),
        ({"overrides": [{"match": "re:.*qproj", "rank": 1}]}, "matches none of the 21 linear layers"),
    ],
)
def test_the_whole_model_is_checked_before_calibration(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = {**_CALIBRATION, "source": str(tmp_path / "missing.txt")}
    with pytest.raises(ValueError, match=message):
        compress(tiny_model("llama"), _recipe(**{**changes, "calibration": source}))
    with pytest.raises(ValueError, match=message):
        plan(tiny_model("llama"), _recipe(**{**changes, "calibration": source}))


def test_calibration_that_does_not_fit_the_model() -> None:
    with pytest.raises(ValueError, match=r"tokens go from 96 to 96, but the model's vocabulary has 96"):
        compress(tiny_model("llama"), _recipe(), tokens=torch.full((96,), 96))
    recipe = _recipe(calibration={"windows": 1, "window_tokens": 65})
    with pytest.raises(ValueError, match="window_tokens is 65, but the model takes at most 64"):
        compress(tiny_model("gpt2"), recipe, tokens=torch.zeros(65, dtype=torch.long))


def test_a_method_that_needs_data_says_so() -> None:
    with pytest.raises(ValueError, match="method 'threebasil' needs calibration data"):
        compress(tiny_model("llama"), _recipe())


def test_float16_that_overflows_names_the_layer() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"model\.layers\.0\.mlp\.up_proj: .*float16"):
        compress(model, _recipe(method="magnitude", dtype="float16"))


def test_a_folder_gives_the_same_as_the_model_itself(tmp_path: Path) -> None:
    tiny_model("qwen3").to(torch.bfloat16).save_pretrained(tmp_path)
    from_folder = compress(tmp_path, _recipe(), tokens=_TOKENS)
    from_model = compress(hf.AutoModelForCausalLM.from_pretrained(tmp_path), _recipe(), tokens=_TOKENS)
    a, b = from_folder.model.state_dict(), from_model.model.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert from_folder.tokenizer is None


def test_other_files_and_missing_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.bin is a file; give a model folder"):
        compress(tmp_path / "model.bin", _recipe())
    with pytest.raises(OSError, match=r"missing\.gguf does not exist"):
        plan(tmp_path / "missing.gguf", _recipe())


def test_plan_lists_what_compress_then_does(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    recipe = _recipe(dtype="bfloat16")
    planned, done = plan(tmp_path, recipe), compress(tmp_path, recipe, tokens=_TOKENS)
    fields = ("name", "method", "pattern", "rank", "d_out", "d_in", "dense_bytes", "stored_bytes")
    expected = {tuple(getattr(record, name) for name in fields) for record in done.layers}
    assert {dataclasses.astuple(layer) for layer in planned.layers} == expected
    assert planned.calibration_tokens == 96
    assert planned.peak_bytes > sum(layer.dense_bytes for layer in planned.layers)
    assert planned.seconds > 0


def test_plan_counts_the_memory_of_a_text_that_becomes_tokens(tmp_path: Path) -> None:
    peaks = []
    for size in (1000, 3_000_000):
        (tmp_path / "text.txt").write_text("x" * size)
        recipe = _recipe(calibration={"source": str(tmp_path / "text.txt"), "windows": 4, "window_tokens": 8})
        peaks.append(plan(tiny_model("llama"), recipe).peak_bytes)
    assert peaks[1] - peaks[0] > 300_000_000


def test_plan_without_calibration_counts_no_tokens() -> None:
    assert plan(tiny_model("llama"), _recipe(method="magnitude")).calibration_tokens == 0


def test_saved_and_loaded_checkpoint_gives_the_same_logits(tmp_path: Path) -> None:
    result = compress(tiny_model("llama"), _recipe(dtype="bfloat16"), tokens=_TOKENS)
    result.save(tmp_path / "out")
    loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded(input_ids=_TOKENS).logits, result.model(input_ids=_TOKENS).logits)


def test_other_parameters_must_fit_the_stored_dtype_too() -> None:
    model = tiny_model("llama")
    modules = dict(model.named_modules())
    with torch.no_grad():
        model.model.norm.weight[0] = 1e6
    with pytest.raises(ValueError, match=r"model\.norm\.weight holds 0 NaN and 1 Inf .*float16; choose"):
        compress(model, _recipe(method="magnitude", dtype="float16"))
    assert dict(model.named_modules()) == modules


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no GPU that torch can use; use device 'cpu'"):
        compress(tmp_path / "nothing", _recipe(device="cuda"))
