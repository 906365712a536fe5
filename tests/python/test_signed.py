"""The signed term: packed signs, the layer that holds it, checkpoints, its share of a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_helpers import compress_randomly, decoder_linears, file_bytes, keep_two_of_four, logits, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

import sparlow
from sparlow import Signed, hf, signed
from sparlow.inspect import inspect_checkpoint
from sparlow.layers import SparseLowRankLinear
from sparlow.recipe import Recipe
from sparlow.spec import LayerSpec


def random_signed(rows: int, cols: int, rank: int = 1, seed: int = 0) -> Signed:
    random = torch.Generator().manual_seed(seed)
    signs = torch.rand(rows, cols, generator=random) < 0.5
    return Signed(signs, torch.rand(rows, rank, generator=random), torch.rand(rank, cols, generator=random))


def make_layer(dtype: torch.dtype = torch.float32, rank: int = 3, sign_rank: int = 2) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(2)
    s, u, v, term = (
        keep_two_of_four(torch.randn(12, 20)),
        torch.randn(12, rank),
        torch.randn(rank, 20),
        random_signed(12, 20, sign_rank),
    )
    layer = SparseLowRankLinear.from_decomposition(s, u, v, None, "2:4", dtype, term)
    return layer, s + u @ v + torch.where(term.signs, 1.0, -1.0) * (term.u @ term.v)


def with_signs(model: Any) -> Any:
    compress_randomly(model, rank=2)
    for index, name in enumerate(decoder_linears(model)):
        layer = model.get_submodule(name)
        model.set_submodule(
            name,
            SparseLowRankLinear.from_decomposition(
                layer.sparse_dense(),
                layer.low_rank_u,
                layer.low_rank_v,
                None,
                "2:4",
                torch.bfloat16,
                random_signed(layer.out_features, layer.in_features, 1 + index % 2, index),
            ),
        )
    hf.attach(model, {})
    return model.requires_grad_(False)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 9), cols=st.integers(1, 35), seed=st.integers(0, 2**31))
def test_signs_round_trip_is_exact(rows: int, cols: int, seed: int) -> None:
    signs = random_signed(rows, cols, seed=seed).signs
    bits = signed.pack_signs(signs)
    assert torch.equal(bits, signed.pack_signs_by_torch(signs))
    assert bits.shape == (rows, (cols + 7) // 8)
    signed.check_signs(bits, cols, "q")
    assert torch.equal(signed.unpack_signs(bits, cols), signs)
    assert torch.equal(signed.unpack_signs_by_torch(bits, cols), signs)


def test_documented_layout_of_the_signs() -> None:
    signs = torch.tensor([[1, 0, 0, 1, 1, 0, 0, 0, 0, 1]]).bool()
    assert signed.pack_signs(signs).tolist() == [[0b0001_1001, 0b10]]
    strided = signs.repeat(2, 2)[:, ::2]
    assert torch.equal(signed.pack_signs(strided), signed.pack_signs(strided.clone()))
    with pytest.raises(ValueError, match=r"layer 'q': sign_bits has signs beyond column 9"):
        signed.check_signs(torch.tensor([[0, 4]], dtype=torch.uint8), 10, "q")
    with pytest.raises(ValueError, match=r"signs of 20 columns must be uint8 \[d_out, 3\], got \[1, 2\]"):
        signed.unpack_signs(torch.zeros(1, 2, dtype=torch.uint8), 20)
    torch.library.opcheck(signed.unpack_signs, (signed.pack_signs(signs), 10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_dense_weight_hold_all_terms(dtype: torch.dtype) -> None:
    layer, w = make_layer(dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 3e-2, "atol": 0.2}
    x = torch.randn(2, 5, 20)
    torch.testing.assert_close(layer.dense_weight(), w, **tolerance)
    torch.testing.assert_close(layer(x), x @ w.T, **tolerance)
    assert "sign_rank=2" in repr(layer)
    layer(x.requires_grad_(True)).square().sum().backward()
    assert all(getattr(layer, name).grad is not None for name in ("sign_u", "sign_v", "low_rank_u"))
    assert layer.sign_bits.grad is None


def test_bytes_are_the_documented_share_with_signs() -> None:
    s = keep_two_of_four(torch.randn(64, 128))
    layer = SparseLowRankLinear.from_decomposition(s, None, None, None, "2:4", torch.bfloat16, random_signed(64, 128))
    dense = 64 * 128 * 2
    assert layer.stored_bytes == (0.5625 + 0.0625) * dense + (64 + 128) * 2


def test_compiles_with_a_signed_term() -> None:
    layer, _ = make_layer()
    x = torch.randn(3, 20)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


def test_a_signed_term_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes of signs, u and v .* do not fit a signed term of s \[4, 4\]"):
        SparseLowRankLinear.from_decomposition(
            torch.eye(4), None, None, None, "2:4", torch.float32, random_signed(4, 8)
        )
    with pytest.raises(ValueError, match="sign_rank must be a non-negative integer, got -1"):
        LayerSpec("nm24", "2:4", 0, 4, 4, None, -1)


def test_checkpoint_round_trip_is_bit_identical(tmp_path: Path) -> None:
    model = with_signs(tiny_model())
    expected = logits(model)
    sparlow.save(model, tmp_path / "first")
    loaded = sparlow.load(tmp_path / "first")
    assert torch.equal(logits(loaded), expected)
    assert {m.sign_rank for m in hf.compressed_modules(loaded).values()} == {1, 2}
    sparlow.save(loaded, tmp_path / "second")
    first, second = file_bytes(tmp_path / "first"), file_bytes(tmp_path / "second")
    assert first["model.safetensors"] == second["model.safetensors"]
    found = inspect_checkpoint(tmp_path / "first")
    for layer in found.layers:
        module = loaded.get_submodule(layer.name)
        assert layer.signed_bytes == layer.spec.d_out * (layer.spec.d_in // 8) + 2 * module.sign_rank * (
            layer.spec.d_out + layer.spec.d_in
        )
        assert layer.stored_bytes == module.stored_bytes


def test_signs_beyond_the_last_column_are_named(tmp_path: Path) -> None:
    model = with_signs(tiny_model(intermediate_size=60))
    name = "model.layers.1.mlp.down_proj"
    model.get_submodule(name).sign_bits[0, -1] = 255
    sparlow.save(model, tmp_path / "bad")
    with pytest.raises(ValueError, match=rf"layer '{name}': sign_bits has signs beyond column 59"):
        sparlow.load(tmp_path / "bad")


def test_compression_with_a_signed_method(tmp_path: Path) -> None:
    """Recipe, traversal, checkpoint; the estimate is what the layers then take."""
    torch.manual_seed(0)
    tokens = torch.randint(3, 60, (256,))
    for method, extra in (("slab", {}), ("slab_joint", {"rank": 2})):
        data = {"method": method, "pattern": "@row", "budget": 0.7, **extra}
        data["calibration"] = {"windows": 8, "window_tokens": 32}
        recipe = Recipe.from_dict(data)
        planned = sparlow.plan(tiny_model(), recipe)
        model = tiny_model()
        done = sparlow.compress(model, recipe, tokens=tokens)
        assert {record.sign_rank for record in done.layers} == {1}
        assert sum(r.stored_bytes for r in done.layers) == sum(p.stored_bytes for p in planned.layers)
        for record in done.layers:
            values = record.density * record.d_out * record.d_in
            more = (record.rank + 1) * (record.d_out + record.d_in) + record.d_out * record.d_in / 16
            budget = 0.7 * record.d_out * record.d_in
            assert budget - record.d_out <= values + more <= budget
        done.save(tmp_path / method)
        assert torch.equal(logits(sparlow.load(tmp_path / method)), logits(done.model))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"method": "slab", "budget": 0.6}, "'slab' has none; remove rank and budget, or let the budget decide"),
        ({"method": "slab", "pattern": "@row"}, "pattern '@row' leaves the density to the budget, but there is none"),
        ({"method": "slab_joint", "budget": 0.4}, "budget 0.4 is below the density 0.5 of pattern '2:4'"),
        ({"method": "slab", "rank": 3}, "asks for a low-rank part, but method 'slab' has none"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(data)


def test_infeasible_budgets_name_the_nearest_feasible_one() -> None:
    with pytest.raises(ValueError, match=r"q: its 64 x 128 weight needs 0\.5859 .*nearest feasible budget is 0\.586"):
        Recipe.from_dict({"method": "slab_joint", "budget": 0.55}).resolve("q", 64, 128)
    assert Recipe.from_dict({"method": "slab_joint", "budget": 0.586}).resolve("q", 64, 128).rank == 0
    with pytest.raises(ValueError, match=r"q: budget 0\.08 leaves no entry .*the nearest feasible budget is 0\.0938"):
        Recipe.from_dict({"method": "slab", "pattern": "@row", "budget": 0.08}).resolve("q", 64, 128)
    assert Recipe.from_dict({"method": "slab", "pattern": "@row", "budget": 0.0938}).resolve("q", 64, 128).pattern == (
        "0.0078125@row"
    )


def test_the_budget_of_the_paper() -> None:
    """CR 50 %: 1 - CR - 1/16 - (d_in + d_out) / (d_in d_out) of the entries are kept."""
    plan = Recipe.from_dict({"method": "slab", "pattern": "@row", "budget": 0.5}).resolve("q", 576, 576)
    assert sparlow.parse_pattern(plan.pattern).kept(1, 576) == 250
    joint = Recipe.from_dict({"method": "slab_joint", "pattern": "@row", "budget": 0.5, "rank": 16})
    plan = joint.resolve("q", 576, 576)
    assert (plan.rank, sparlow.parse_pattern(plan.pattern).kept(1, 576)) == (16, 218)
    override = {"match": "q", "method": "slab", "options": {"sign_rank": 2}}
    plan = joint.updated(overrides=[override]).resolve("q", 576, 576)
    assert (plan.method, plan.rank, sparlow.parse_pattern(plan.pattern).kept(1, 576)) == ("slab", 0, 248)
