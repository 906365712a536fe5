"""Invariants of every method of the registry, through sparlow.decompose."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from solve_helpers import dense, exact_loss

from sparlow import Decomposition, Gram, MethodInfo, decompose, method_info, methods, parse_pattern, relative_loss

PATTERNS = ["2:4", "1:4", "2:8", "4:8", "0.5@row", "0.3@matrix", "dense"]
every_method = pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
every_pattern = pytest.mark.parametrize("pattern", PATTERNS)


def ranks_of(method: MethodInfo) -> list[int]:
    return [0, 1, 5] if method.low_rank else [0]


def run(method: MethodInfo | str, layer: Any, pattern: str, rank: int = 0, **more: Any) -> Decomposition:
    name = method if isinstance(method, str) else method.name
    return decompose([layer.w], layer.gram, method=name, pattern=pattern, ranks=[rank], **more)[0]


def kept_per_group(s: torch.Tensor, pattern: str) -> torch.Tensor:
    parsed = parse_pattern(pattern)
    width = {"nm": parsed.m, "row": s.shape[1], "matrix": s.numel(), "dense": s.numel()}[parsed.kind]
    return (s != 0).reshape(-1, width).sum(1)


@every_method
@every_pattern
def test_pattern_rank_and_reported_loss_are_exact(layer: Any, method: MethodInfo, pattern: str) -> None:
    for rank in ranks_of(method):
        result = run(method, layer, pattern, rank)
        report = result.report
        assert all(torch.isfinite(part).all() for part in (result.s, result.u, result.v))
        parsed = parse_pattern(pattern)
        groups = kept_per_group(result.s, pattern)
        assert (groups == parsed.kept(*layer.w.shape) // len(groups)).all()
        assert report.density == pytest.approx(int((result.s != 0).sum()) / layer.w.numel(), rel=1e-12)
        assert result.u.shape == (layer.w.shape[0], rank)
        assert result.v.shape == (rank, layer.w.shape[1])
        assert report.rank == rank
        loss, energy = exact_loss(layer.w, dense(result), layer.gram), exact_loss(layer.w, 0 * layer.w, layer.gram)
        if pattern == "dense":
            assert report.relative_loss < 1e-9
        else:
            assert report.loss == pytest.approx(loss, rel=1e-4)
            assert report.relative_loss == pytest.approx(loss / energy, rel=1e-4)
        assert relative_loss(layer.w, dense(result).float(), layer.gram) == pytest.approx(
            loss / energy, rel=1e-3, abs=1e-9
        )
        assert report.dead_columns == 0
        assert report.seconds > 0


@every_method
@every_pattern
def test_no_method_loses_to_a_simpler_one(layer: Any, method: MethodInfo, pattern: str) -> None:
    simpler = {"none": [], "diagonal": ["magnitude"], "full": ["magnitude", "wanda"]}[method.needs_gram]
    for rank, name in itertools.product(ranks_of(method), simpler):
        ours, theirs = run(method, layer, pattern, rank).report.loss, run(name, layer, pattern).report.loss
        assert ours <= theirs * (1 + 1e-6) + 1e-3


@every_method
def test_more_rank_and_more_density_never_cost_much(layer: Any, method: MethodInfo) -> None:
    by_density = [run(method, layer, f"{n}:8").report.loss for n in (1, 2, 4, 6)]
    assert by_density == sorted(by_density, reverse=True)
    if method.low_rank:
        by_rank = [run(method, layer, "2:4", rank).report.loss for rank in (0, 2, 8, 32)]
        assert by_rank == sorted(by_rank, reverse=True)
        full = run(method, layer, "2:4", 48).report
        assert full.relative_loss < 1e-4


@pytest.mark.parametrize(
    "method", [x for x in methods() if x.low_rank and x.needs_gram == "full"], ids=lambda method: method.name
)
def test_planted_sparse_plus_low_rank_is_recovered(make_layer: Callable[..., Any], method: MethodInfo) -> None:
    layer = make_layer(64, 64, low_rank=0, tokens=512)
    generator = torch.Generator().manual_seed(3)
    columns = torch.arange(64)
    support = (columns[None] + torch.arange(64)[:, None]) % 4 < 2
    s = torch.where(support, layer.w + layer.w.sign(), torch.zeros(()))
    low_rank = 0.1 * torch.randn(64, 3, generator=generator) @ torch.randn(3, 64, generator=generator)
    planted = type(layer)(s + low_rank, layer.x)
    found = run(method, planted, "2:4", 3)
    # eora keeps the sparse part of its pruner, oats sees no correlations
    share = {"eora": 0.6, "oats": 0.25}.get(method.name, 0.1)
    assert found.report.loss < share * run("wanda", planted, "2:4").report.loss
    assert ((found.s != 0) == support).float().mean() > 0.9


@every_method
def test_a_diagonal_gram_makes_the_projection_optimal(make_layer: Callable[..., Any], method: MethodInfo) -> None:
    """Uncorrelated inputs: Wanda's mask with unchanged weights is the exact optimum at rank 0.

    It is the worst case of ADMM's soft penalties, made for correlated inputs: a few per cent are lost.
    """
    layer = make_layer(low_rank=0)
    gram = torch.diag(torch.linspace(0.5, 20, 64))
    best = decompose([layer.w], gram, method="wanda", pattern="2:4", ranks=[0])[0].report.loss
    ours = decompose([layer.w], gram, method=method.name, pattern="2:4", ranks=[0])[0].report.loss
    if method.signed_term:
        assert ours < 0.5 * best
        return
    assert ours >= best * (1 - 1e-6)
    if method.needs_gram == "full":
        assert ours <= best * 1.05


@every_method
def test_same_seed_same_bits(layer: Any, method: MethodInfo) -> None:
    rank = ranks_of(method)[-1]
    first, second = (run(method, layer, "2:4", rank, seed=7) for _ in range(2))
    for a, b in ((first.s, second.s), (first.u, second.u), (first.v, second.v)):
        assert torch.equal(a, b)
    assert first.report.loss == second.report.loss


@every_method
@pytest.mark.parametrize("pattern", ["2:4", "0.5@row", "0.5@matrix"])
def test_weights_that_share_an_input(make_layer: Callable[..., Any], method: MethodInfo, pattern: str) -> None:
    """q, k, v of different heights in one call: each as good as alone, in any order."""
    base = make_layer(96, 64)
    parts = list(base.w.split([48, 16, 32]))
    ranks = [4, 0, 2] if method.low_rank else [0, 0, 0]
    together = decompose(parts, base.gram, method=method.name, pattern=pattern, ranks=ranks)
    turned = decompose(parts[::-1], base.gram, method=method.name, pattern=pattern, ranks=ranks[::-1])[::-1]
    for part, rank, stacked, other in zip(parts, ranks, together, turned, strict=True):
        alone = decompose([part], base.gram, method=method.name, pattern=pattern, ranks=[rank])[0]
        assert stacked.s.shape == part.shape
        assert (kept_per_group(stacked.s, pattern) == kept_per_group(alone.s, pattern)).all()
        assert stacked.report.loss == pytest.approx(exact_loss(part, dense(stacked), base.gram), rel=1e-4)
        assert stacked.report.loss == pytest.approx(alone.report.loss, rel=0.2)
        assert other.report.loss == pytest.approx(stacked.report.loss, rel=0.2)


@every_method
def test_strided_weights_and_low_precision(layer: Any, method: MethodInfo) -> None:
    rank = ranks_of(method)[-1]
    expected = run(method, layer, "2:4", rank)
    transposed = layer.w.t().contiguous().t()
    padded = torch.cat([layer.w, layer.w], dim=1)[:, :64]
    parameter = torch.nn.Parameter(layer.w.clone())
    for weight in (transposed, padded, layer.w.double(), parameter):
        result = run(method, type(layer)(weight, layer.x), "2:4", rank)
        assert torch.equal(result.s, expected.s)
        assert torch.equal(result.u, expected.u)
        assert not result.s.requires_grad
    for dtype in (torch.bfloat16, torch.float16):
        weight = layer.w.to(dtype)
        result = run(method, type(layer)(weight, layer.x), "2:4", rank)
        assert result.s.dtype == torch.float32
        assert result.report.loss == pytest.approx(exact_loss(weight, dense(result), layer.gram), rel=1e-4)


@every_method
def test_the_weight_is_not_written_to(layer: Any, method: MethodInfo) -> None:
    before, gram = layer.w.clone(), layer.gram
    kept = gram.clone()
    decompose([layer.w], gram, method=method.name, pattern="2:4", ranks=[0])
    assert torch.equal(layer.w, before)
    assert torch.equal(gram, kept)


@every_method
@pytest.mark.parametrize("shape", [(1, 8), (3, 8), (129, 4), (2, 256)])
def test_small_and_lopsided_shapes(make_layer: Callable[..., Any], method: MethodInfo, shape: tuple[int, int]) -> None:
    layer = make_layer(*shape, low_rank=0, outliers=0, tokens=600)
    for rank in {0, 1, min(shape)} if method.low_rank else {0}:
        result = run(method, layer, "2:4", rank)
        kept = kept_per_group(result.s, "2:4")
        assert (kept <= 2).all()
        if method.signed_term and 1 in shape:  # signs times a rank-1 factor are a single row, s is left with nothing
            torch.testing.assert_close(dense(result).float(), layer.w, rtol=1e-4, atol=1e-5)
        else:
            assert rank == min(shape) or (kept == 2).all()  # nothing is left to keep beside a full-rank part
        assert torch.isfinite(dense(result)).all()


@every_method
def test_scaling_inputs_or_weights_scales_the_loss(layer: Any, method: MethodInfo) -> None:
    """No absolute thresholds: the support is the same at any scale."""
    rank = ranks_of(method)[-1]
    base = run(method, layer, "2:4", rank)
    for w_scale, x_scale in ((2.0**-12, 1.0), (1.0, 2.0**10), (2.0**8, 2.0**-8)):
        other = run(method, type(layer)(layer.w * w_scale, layer.x * x_scale), "2:4", rank)
        assert ((other.s != 0) == (base.s != 0)).float().mean() > 0.99
        assert other.report.relative_loss == pytest.approx(base.report.relative_loss, rel=0.02)


def test_gram_accumulates_any_batching_and_dtype(layer: Any) -> None:
    gram = Gram(64, name="input")
    gram.add(layer.x[:100].reshape(4, 25, 64))
    gram.add(layer.x[100:])
    assert gram.tokens == 256
    torch.testing.assert_close(gram.matrix(), layer.gram, rtol=1e-5, atol=1e-2)
    assert torch.equal(gram.matrix(), gram.matrix().T)
    for dtype in (torch.bfloat16, torch.float16):
        half = Gram(64)
        half.add(layer.x.to(dtype))
        wide = layer.x.to(dtype).double()
        torch.testing.assert_close(half.matrix(), (wide.T @ wide).float(), rtol=1e-5, atol=1e-2)
    assert run("wanda", layer, "2:4").report.loss == pytest.approx(
        decompose([layer.w], gram, method="wanda", pattern="2:4", ranks=[0])[0].report.loss, rel=1e-4
    )


def test_registry_rows_are_complete() -> None:
    names = [method.name for method in methods()]
    assert len(set(names)) == len(names)
    assert {"magnitude", "wanda", "threebasil"} <= set(names)
    for method in methods():
        assert method.title
        assert method.citation
        for option in method.options.values():
            assert option.doc
            if option.kind == "choice":
                assert option.default in option.choices
                assert option.high == len(option.choices) - 1
            else:
                assert option.low <= float(option.default) <= option.high


@pytest.mark.parametrize(
    ("method", "option", "choice"),
    [(m.name, o.name, choice) for m in methods() for o in m.options.values() for choice in o.choices],
)
def test_every_choice_makes_a_difference(layer: Any, method: str, option: str, choice: str) -> None:
    chosen = run(method, layer, "2:4", 4, options={option: choice})
    assert chosen.report.loss == run(method, layer, "2:4", 4, options={option: choice}).report.loss
    for other in method_info(method).options[option].choices:
        if other != choice:
            assert run(method, layer, "2:4", 4, options={option: other}).report.loss != chosen.report.loss
