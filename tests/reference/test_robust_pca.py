"""Robust PCA and the method made of it against a NumPy twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from robust_pca_twin import robust_pca as twin

from sparlow import decompose, parse_pattern, robust_pca


def planted(rows: int, cols: int, rank: int, share: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    low = torch.randn(rows, rank, generator=random) @ torch.randn(rank, cols, generator=random)
    sparse = torch.where(torch.rand(rows, cols, generator=random) < share, 10.0, 0.0)
    return low, sparse * torch.randn(rows, cols, generator=random).sign()


@pytest.mark.parametrize("shape", [(48, 64), (96, 32), (40, 40)])
@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_every_iterate_is_that_of_the_twin(
    make_layer: Callable[..., Any], shape: tuple[int, int], iterations: int
) -> None:
    w = make_layer(*shape).w
    low, sparse, gap = twin(w.double().numpy(), iterations)
    found = robust_pca(w, iterations=iterations, tolerance=0)
    scale = np.abs(w.numpy()).max()
    np.testing.assert_allclose((found.u @ found.v).numpy(), low, atol=2e-4 * scale)
    np.testing.assert_allclose(found.s.numpy(), sparse, atol=2e-4 * scale)
    assert found.gap == pytest.approx(gap, rel=0.02)
    assert (found.iterations, found.converged) == (iterations, False)
    sigma = np.linalg.svd(low, compute_uv=False)[: len(found.sigma)]
    np.testing.assert_allclose(found.sigma.numpy(), sigma, rtol=1e-3, atol=1e-3 * sigma[0])


@pytest.mark.parametrize("shape", [(60, 80), (80, 60)])
def test_planted_low_rank_and_sparse_parts_are_recovered(shape: tuple[int, int]) -> None:
    low, sparse = planted(*shape, 3, 0.05)
    found = robust_pca(low + sparse, iterations=500, tolerance=1e-5)
    assert found.converged
    assert found.iterations < 500
    assert found.sigma.numel() == 3
    torch.testing.assert_close(found.u @ found.v, low, rtol=0, atol=2e-2)
    torch.testing.assert_close(found.s, sparse, rtol=0, atol=2e-2)


def test_running_out_of_iterations_is_an_outcome() -> None:
    low, sparse = planted(20, 32, 2, 0.1)
    few = robust_pca(low + sparse, iterations=2)
    assert (few.iterations, few.converged) == (2, False)
    for limit, status in ((2, "iteration_limit"), (500, "converged")):
        options = {"iterations": limit}
        report = decompose([low + sparse], None, method="cap", pattern="2:4", ranks=[2], options=options)[0].report
        assert report.status == status
        assert report.iterations <= 2 if limit == 2 else 2 < report.iterations < 500


def test_zero_and_bad_weights() -> None:
    zero = robust_pca(torch.zeros(4, 8))
    assert (zero.converged, zero.sigma.numel(), int(zero.s.count_nonzero())) == (True, 0, 0)
    with pytest.raises(ValueError, match="NaN or Inf"):
        robust_pca(torch.full((4, 8), float("nan")))
    with pytest.raises(ValueError, match="0 iterations"):
        robust_pca(torch.ones(4, 8), iterations=0)
    with pytest.raises(ValueError, match=r"expected a matrix, got a tensor of shape \(4,\)"):
        robust_pca(torch.ones(4))


@pytest.mark.parametrize("pattern", ["2:4", "0.1@matrix"])
def test_cap_projects_the_sparse_part_and_refits_the_low_rank_one(make_layer: Callable[..., Any], pattern: str) -> None:
    w = make_layer(48, 64).w
    wide = w.double().numpy()
    low, _, _ = twin(wide, 30)
    ours = decompose([w], None, method="cap", pattern=pattern, ranks=[6], options={"tolerance": 0})[0]
    kept = (ours.s != 0).numpy()
    order = np.abs(wide - low)
    assert order[kept].min() > 0
    groups = order.reshape(-1, 4) if pattern == "2:4" else order.reshape(1, -1)
    count = parse_pattern(pattern).kept(48, 64) // len(groups)
    threshold = np.sort(groups, axis=1)[:, -count][:, None]
    assert ((groups >= threshold) == kept.reshape(groups.shape)).mean() > 0.995
    s = np.where(kept, wide - low, 0)
    u, sigma, v = np.linalg.svd(wide - s)
    best = (u[:, :6] * sigma[:6]) @ v[:6]
    np.testing.assert_allclose((ours.u @ ours.v).numpy(), best, atol=5e-3 * np.abs(best).max())
    np.testing.assert_allclose(ours.s.numpy()[kept], (wide - best)[kept], atol=5e-3 * np.abs(wide).max())


def test_a_share_without_low_rank_is_magnitude_pruning(make_layer: Callable[..., Any]) -> None:
    w = make_layer().w
    plain, ours = (decompose([w], None, method=m, pattern="2:4", ranks=[0])[0] for m in ("magnitude", "cap"))
    assert torch.equal(plain.s, ours.s)
