"""Stacks of layers that read the same input, with kernels that only pretend to be on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoint_helpers import compress_randomly, file_bytes, metrics_of, tiny_model
from fake_kernels import FakeOps, fake_kernels
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import sparlow
from sparlow.hf import compressed_modules
from sparlow.packed import ALL_PARTS
from sparlow.stacks import can_stack

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2}
IDS = torch.arange(3, 25).reshape(2, 11)


@pytest.fixture
def ops() -> Iterator[FakeOps]:
    with fake_kernels() as found:
        yield found


def make(family: str = "llama", **sizes: int) -> PreTrainedModel:
    torch.manual_seed(3)
    model = compress_randomly(tiny_model(family, **(SIZES | sizes)), rank=4)
    sparlow.stack(model)
    return model


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    def same(x: Tensor, y: Tensor) -> bool:
        bits = [t.contiguous().view(torch.uint8) for t in (x, y)]
        return x.dtype == y.dtype and x.shape == y.shape and torch.equal(*bits)

    return list(a) == list(b) and all(same(x, b[name]) for name, x in a.items())


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_one_launch_for_layers_that_share_their_input(ops: FakeOps, family: str) -> None:
    model = make(family).eval()
    layers = compressed_modules(model)
    assert all(layer.is_packed for layer in layers.values())
    found = logits(model)
    blocks = len(layers) // 7
    assert ops.launches.count((ALL_PARTS, IDS.numel())) == 4 * blocks == len(ops.launches)
    sparlow.unstack(model)
    assert all(layer.is_packed and layer.stack is None for layer in layers.values())
    ops.launches.clear()
    assert torch.equal(logits(model), found)
    assert len(ops.launches) == 7 * blocks
    assert len(sparlow.stack(model)) == 2 * blocks


def test_everything_comes_back_bit_for_bit(ops: FakeOps, tmp_path: Path) -> None:
    del ops
    model = make("qwen2").train()
    parameters = dict(model.named_parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    want = logits(model.eval())
    twin = copy.deepcopy(model)
    assert same_bits(model.state_dict(), before)
    assert same_bits(twin.state_dict(), before)
    assert torch.equal(logits(twin), want)
    attention = model.model.layers[0].self_attn
    attention.k_proj.train()
    assert not attention.q_proj.is_packed
    assert same_bits(model.state_dict(), before)
    attention.k_proj.eval()
    assert attention.q_proj.is_packed
    model.load_state_dict(before)
    assert torch.equal(logits(model), want)
    assert same_bits(model.train().state_dict(), before)
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    folder = sparlow.save(model.eval(), tmp_path / "model", metrics=metrics_of(model))
    again = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert torch.equal(logits(again), want)
    assert file_bytes(sparlow.save(again, tmp_path / "again", metrics=metrics_of(model))) == file_bytes(folder)
    assert compressed_modules(sparlow.load(folder, stacked=False))["model.layers.0.mlp.up_proj"].stack is None


def test_one_buffer_for_all(ops: FakeOps) -> None:
    del ops
    model = make().eval()
    layers = [layer for layer in compressed_modules(model).values() if layer.stack is not None]
    assert all((layer.weight_packed.numel() > 0) == (layer is layer.stack.members[0]) for layer in layers)
    assert all(layer.low_rank_u.numel() == layer.low_rank_v.numel() == 0 for layer in layers)


@torch.no_grad()
def test_a_layer_called_otherwise_computes_its_own_rows(ops: FakeOps) -> None:
    attention = make().eval().model.layers[0].self_attn
    x, other = torch.randn(2, 3, 128).bfloat16()
    want = [attention.q_proj(x), attention.k_proj(x), attention.k_proj(other)]
    assert ops.launches == [(0, 3), (1, 3), (1, 3)]
    stack = attention.q_proj.stack
    stack.enter()
    assert torch.equal(attention.q_proj(x), want[0])
    assert torch.equal(attention.k_proj(other), want[2])  # not what was kept for x
    assert torch.equal(attention.k_proj(x), want[1])
    assert ops.launches[3:] == [(ALL_PARTS, 3), (1, 3)]
    stack.leave()
    x.copy_(other)
    assert torch.equal(attention.k_proj(x), want[2])  # nothing is kept


@torch.no_grad()
def test_an_input_that_changes_in_place_between_passes(ops: FakeOps) -> None:
    del ops
    mlp = make().eval().model.layers[0].mlp
    x, first, second = torch.randn(3, 5, 128).bfloat16()
    outputs = []
    for values in (first, second):
        x.copy_(values)
        outputs.append(mlp(x))
    sparlow.unstack(mlp)
    assert torch.equal(outputs[0], mlp(first))
    assert torch.equal(outputs[1], mlp(second))


@torch.no_grad()
def test_an_owner_that_fails_leaves_nothing_behind(ops: FakeOps) -> None:
    mlp = make().eval().model.layers[0].mlp
    x = torch.randn(5, 128).bfloat16()
    activation, mlp.act_fn = mlp.act_fn, torch.nn.Linear(1, 1)  # of another width
    with pytest.raises(RuntimeError):
        mlp(x)
    mlp.act_fn = activation
    assert ops.launches == [(ALL_PARTS, 5)]
    x.neg_()
    assert torch.equal(mlp.up_proj(x), mlp.up_proj(x.clone()))
    assert ops.launches[1:] == [(1, 5), (1, 5)]


def test_compiles_as_one_graph(ops: FakeOps) -> None:
    mlp = make().eval().model.layers[0].mlp
    x = torch.randn(2, 5, 128).bfloat16()
    with torch.no_grad():
        want = mlp(x)
        ops.launches.clear()
        compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), want)
        assert torch.equal(compiled(x + 1), mlp(x + 1))
    assert ops.launches[:2] == [(ALL_PARTS, 10), (ALL_PARTS, 10)]  # gate and up, then down


def test_what_cannot_be_stacked(ops: FakeOps) -> None:
    del ops
    assert all(
        layer.stack is None for layer in compressed_modules(make(hidden_size=64, intermediate_size=192)).values()
    )
    layers = compressed_modules(sparlow.unstack(model := make()) or model)
    gate, up = layers["model.layers.0.mlp.gate_proj"], layers["model.layers.0.mlp.up_proj"]
    assert can_stack([gate, up])
    wider = sparlow.SparseLowRankLinear.from_decomposition(
        gate.sparse_dense(), torch.randn(256, 40), torch.randn(40, 128), None, "2:4", torch.bfloat16
    )
    assert not can_stack([wider, up])  # too much padding
    with_bias = copy.deepcopy(up)
    with_bias.bias = torch.nn.Parameter(torch.zeros(256))
    assert not can_stack([gate, with_bias])


def test_ranks_may_differ_a_little(ops: FakeOps) -> None:
    mlp = make().model.layers[0].mlp
    sparlow.unstack(mlp)
    u, v = torch.randn(256, 5), torch.randn(5, 128)
    mlp.up_proj = sparlow.SparseLowRankLinear.from_decomposition(
        mlp.up_proj.sparse_dense(), u, v, None, "2:4", torch.bfloat16
    )
    before = {name: tensor.clone() for name, tensor in mlp.state_dict().items()}
    assert len(sparlow.stack(mlp)) == 1
    x = torch.randn(3, 128).bfloat16()
    with torch.no_grad():
        found = mlp.eval()(x)
        assert (ALL_PARTS, 3) in ops.launches
        assert same_bits(mlp.state_dict(), before)
        sparlow.unstack(mlp)
        torch.testing.assert_close(found, mlp(x))


def test_adapters_on_top(ops: FakeOps) -> None:
    peft = pytest.importorskip("peft")
    model = make().eval()
    want = logits(model)
    targets = ["q_proj", "v_proj", "gate_proj", "up_proj"]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets)).eval()
    ops.launches.clear()
    assert torch.equal(logits(adapted), want)  # fresh adapters add nothing
    assert len(ops.launches) == 4 * model.config.num_hidden_layers
    adapted.train()(IDS, labels=IDS).loss.backward()
    assert any(p.grad is not None for name, p in adapted.named_parameters() if "lora" in name)
