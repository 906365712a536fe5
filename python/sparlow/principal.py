"""Robust PCA of a weight: low rank + sparse without calibration data, stage one of global rank and sparsity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparlow import _core
from sparlow.solve import backend_for, view_of


@dataclass(frozen=True)
class RobustPca:
    """W ≈ u v + s, f32. ``u`` [d_out, r], ``v`` [r, d_in]: singular triplets, largest first, equal weight on both.

    ``gap`` is ||W - u v - s|| / ||W||; ``converged`` says whether it reached the tolerance within the iterations.
    """

    u: Tensor
    v: Tensor
    s: Tensor
    iterations: int
    gap: float
    converged: bool

    @property
    def sigma(self) -> Tensor:
        """Singular values [r] of u v, descending."""
        energy: Tensor = self.u.square().sum(dim=0) * self.v.square().sum(dim=1)
        return energy.sqrt()


def robust_pca(weight: Tensor, *, iterations: int = 30, tolerance: float = 2e-3) -> RobustPca:
    """min ||L||_* + ||S||_1 / sqrt(max(d_out, d_in)) over W = L + S (Zhou et al., arXiv:2505.03801).

    Args:
        weight: matrix [d_out, d_in].
        iterations: of ADMM at most; running out of them is an outcome, not an error.
        tolerance: of ||W - L - S|| / ||W||.

    Raises:
        ValueError: not a matrix, NaN or Inf, no iterations.
    """
    if weight.ndim != 2:
        raise ValueError(f"robust_pca: expected a matrix, got a tensor of shape {tuple(weight.shape)}")
    w = weight.detach().to(torch.float32).contiguous()
    size = min(w.shape)
    s, u, v = torch.zeros_like(w), w.new_zeros(w.shape[0], size), w.new_zeros(size, w.shape[1])
    found = _core.robust_pca(
        backend_for(w.device), view_of(w), view_of(s), view_of(u), view_of(v), iterations, tolerance
    )
    rank = found.pop("rank")
    return RobustPca(u[:, :rank].contiguous(), v[:rank].contiguous(), s, **found)
