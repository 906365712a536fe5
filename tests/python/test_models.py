"""Finding blocks and linears by structure, and replaying blocks bit for bit, for every family."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
import transformers as hf
from families import COMMON, FAMILIES, tiny_model
from torch import nn

from sparlow.capture import capture, shared
from sparlow.models import describe_non_finite, find_blocks, left_dense, linears_of, replace_module, select_linears
from sparlow.probe import probe
from sparlow.stream import Stream


def _stream(model: Any, windows: torch.Tensor, batch: int) -> Stream:
    return Stream(model, find_blocks(model), windows, batch=batch, dtype=torch.float32, device="cpu")


def _block_states(model: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    """What the model itself computes: the output of every block."""
    states: list[torch.Tensor] = []
    handles = [
        block.module.register_forward_hook(lambda _m, _a, out: states.append(out if torch.is_tensor(out) else out[0]))
        for block in find_blocks(model)
    ]
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return states


@pytest.mark.parametrize("implementation", ["default", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_replay_equals_the_model_bit_for_bit(family: str, implementation: str) -> None:
    model = tiny_model(family)
    if implementation != "default":
        model.set_attn_implementation(implementation)
    tokens = torch.randint(0, 96, (5, 12), generator=torch.Generator().manual_seed(1))
    stream = _stream(model, tokens, batch=2)  # The last batch is smaller than the others.
    expected = [_block_states(model, part) for part in tokens.split(2)]
    for index in range(len(find_blocks(model))):
        stream.advance(index)
        for batch, states in enumerate(expected):
            assert torch.equal(stream._hidden[batch], states[index]), f"block {index}, batch {batch}"


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_share_their_input(family: str) -> None:
    model = tiny_model(family)
    block = find_blocks(model)[1]
    groups = _stream(model, torch.randint(0, 96, (4, 12)), batch=2).grams(0, linears_of(find_blocks(model)[0]))
    names = [[layer.name.rpartition(".")[2] for layer in group.layers] for group in groups]
    assert sorted(names) == sorted(FAMILIES[family][1])
    assert {layer.name for layer in linears_of(block)} == {
        layer.name.replace(".0.", ".1.") for group in groups for layer in group.layers
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_grams_equal_those_of_hooks_on_the_wholetiny_model(family: str) -> None:
    model = tiny_model(family)
    tokens = torch.randint(0, 96, (4, 12), generator=torch.Generator().manual_seed(2))
    layers = linears_of(find_blocks(model)[0])
    expected = {layer.name: torch.zeros(layer.shape[1], layer.shape[1], dtype=torch.float64) for layer in layers}

    def hook(name: str) -> Any:
        def add(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            x = args[0].flatten(0, -2).double()
            expected[name] += x.T @ x

        return add

    handles = [layer.module.register_forward_pre_hook(hook(layer.name)) for layer in layers]
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    for group in _stream(model, tokens, batch=3).grams(0, layers):
        assert group.gram.tokens == tokens.numel()
        for layer in group.layers:
            torch.testing.assert_close(group.gram.matrix().double(), expected[layer.name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_left_as_it_was(family: str) -> None:
    model = tiny_model(family).to(torch.bfloat16)
    tokens = torch.randint(0, 96, (2, 12))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(input_ids=tokens).logits
    stream = _stream(model, tokens, batch=1)
    stream.grams(0, linears_of(find_blocks(model)[0]))
    stream.advance(0)
    assert stream._hidden[0].dtype == torch.float32
    after = model.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    assert torch.equal(model(input_ids=tokens).logits, logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_embeddings_are_never_linears_of_a_block(family: str) -> None:
    model = tiny_model(family)
    modules = {id(layer.module) for block in find_blocks(model) for layer in linears_of(block)}
    assert id(model.get_output_embeddings()) not in modules
    assert id(model.get_input_embeddings()) not in modules


def test_conv1d_weights_are_seen_as_d_out_by_d_in() -> None:
    layer = linears_of(find_blocks(tiny_model("gpt2"))[0])[0]
    assert (layer.name, layer.shape) == ("transformer.h.0.attn.c_attn", (96, 32))


def test_masks_and_rotary_tables_are_held_once() -> None:
    model = tiny_model("gemma2")
    model.set_attn_implementation("eager")
    blocks = find_blocks(model)
    stream = _stream(model, torch.randint(0, 96, (6, 12)), batch=2)
    tables = {id(calls[index].kwargs["attention_mask"]) for calls in stream._calls for index in range(len(blocks))}
    assert len(tables) == 2


def test_shared_keeps_what_differs() -> None:
    model = tiny_model("llama")
    blocks = find_blocks(model)
    outputs = probe(model, blocks)
    first, longer = (capture(model, blocks, outputs, torch.zeros(1, n, dtype=torch.long)).calls[0] for n in (6, 7))
    assert shared(longer, first).kwargs["position_ids"].shape[-1] == 7


def test_one_block_is_enough() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    assert [block.name for block in find_blocks(model)] == ["model.layers.0"]
    assert len(_stream(model, torch.randint(0, 96, (1, 4)), batch=1).grams(0, linears_of(find_blocks(model)[0]))) == 4


def test_stacked_experts_and_their_router_stay_dense() -> None:
    config = hf.Qwen2MoeConfig(
        **COMMON,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
    )
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    block = find_blocks(model)[0]
    tails = {layer.name.removeprefix(f"{block.name}.") for layer in linears_of(block)}
    assert {"mlp.shared_expert.gate_proj", "self_attn.q_proj"} <= tails
    assert not any("shared_expert_gate" in name or ".experts" in name for name in tails)
    dense = {name.removeprefix(f"{block.name}.") for name in left_dense(block)}
    assert {"mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.shared_expert_gate"} <= dense
    assert len(_stream(model, torch.randint(0, 96, (2, 8)), batch=1).grams(0, linears_of(block))) == 4


def test_no_blocks_is_an_error() -> None:
    with pytest.raises(ValueError, match="Sequential has no list of blocks"):
        find_blocks(nn.Sequential(nn.Linear(4, 4)))


class _Twice(nn.Module):
    """A model that calls its blocks twice over."""

    def __init__(self, reverse: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.reverse = reverse

    def forward(self, input_ids: torch.Tensor, **_settings: bool) -> torch.Tensor:
        x = self.embed(input_ids)
        y = self.layers[0](x)
        return self.layers[1](x) if self.reverse else self.layers[0](self.layers[1](y))


@pytest.mark.parametrize(("parallel", "message"), [(False, r"order \[0, 1, 0\]"), (True, "layers.1 does not read")])
def test_blocks_that_are_no_chain_are_refused(parallel: bool, message: str) -> None:
    model = _Twice(parallel)
    with pytest.raises(ValueError, match=message):
        probe(model, find_blocks(model))


class _Leaky(_Twice):
    """A model whose second block is told about the output of the first."""

    def forward(self, input_ids: torch.Tensor, **_settings: bool) -> torch.Tensor:
        first: torch.Tensor = self.layers[0](self.embed(input_ids))
        second: torch.Tensor = self.layers[1](first, scale=first.mean())
        return second


class _Scaled(nn.Linear):
    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x) if scale is None else super().forward(x) * scale


def test_arguments_that_depend_on_earlier_blocks_are_refused() -> None:
    model = _Leaky(False)
    model.layers = nn.ModuleList(_Scaled(8, 8) for _ in range(2))
    with pytest.raises(ValueError, match=r"layers\.1: its argument 'scale' depends on earlier blocks"):
        probe(model, find_blocks(model))


def test_selection_by_name_and_pattern() -> None:
    blocks = find_blocks(tiny_model("llama"))
    chosen = select_linears(blocks, ["model.layers.0.mlp.up_proj", r"re:.*layers\.2\..*"], [r"re:.*\.o_proj"])
    assert [[layer.name.rpartition(".")[2] for layer in group] for group in chosen] == [
        ["up_proj"],
        [],
        ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"],
    ]


@pytest.mark.parametrize(
    ("include", "exclude", "others"),
    [(["re:.*q_prj"], [], []), ([], ["model.layers.9.self_attn.q_proj"], []), ([], [], [r"re:.*\.qproj"])],
)
def test_a_pattern_without_a_match_lists_near_names(include: list[str], exclude: list[str], others: list[str]) -> None:
    with pytest.raises(ValueError, match=r"matches none of the 21 linear layers.*near names: .*q_proj"):
        select_linears(find_blocks(tiny_model("llama")), include, exclude, others)


def test_the_head_cannot_be_included() -> None:
    with pytest.raises(ValueError, match="output head are never compressed"):
        select_linears(find_blocks(tiny_model("llama")), ["lm_head"], [])


def test_excluding_everything_is_an_error() -> None:
    with pytest.raises(ValueError, match="no layer is left"):
        select_linears(find_blocks(tiny_model("llama")), [], ["re:.*"])


def test_non_finite_activations_name_the_layer() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = float("inf")
    stream = _stream(model, torch.randint(0, 96, (2, 8)), batch=1)
    with pytest.raises(ValueError, match=r"model\.layers\.0: its output holds .* Inf among"):
        stream.advance(0)


def test_replace_module() -> None:
    model = tiny_model("llama")
    replace_module(model, "model.layers.1.mlp.up_proj", nn.Identity())
    assert isinstance(model.model.layers[1].mlp.up_proj, nn.Identity)


def test_the_stream_lets_go_of_its_inputs() -> None:
    model = tiny_model("llama")
    stream = _stream(model, torch.randint(0, 96, (2, 8)), batch=1)
    for index in range(3):
        stream.advance(index)
    gc.collect()
    assert all(not call.kwargs for calls in stream._calls for call in calls)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 1 << 21), (1 << 21, 3)])
def test_non_finite_values_are_found_wherever_they_are(shape: tuple[int, ...]) -> None:
    values = torch.ones(shape, dtype=torch.bfloat16)
    assert describe_non_finite(values) is None
    if values.numel():
        values.view(-1)[-1] = torch.nan
        assert describe_non_finite(values) == f"1 NaN and 0 Inf among {values.numel()} values"
        assert describe_non_finite(values.mT if values.ndim == 2 else values) is not None
