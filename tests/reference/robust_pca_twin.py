"""Slow f64 twin of robust PCA, from the formulas of Zhou et al., arXiv:2505.03801, section on stage one."""

from __future__ import annotations

import numpy as np
from twins import Matrix


def robust_pca(w: Matrix, iterations: int) -> tuple[Matrix, Matrix, float]:
    """(l, s, ||w - l - s|| / ||w||) after so many ADMM iterations from l = s = y = 0."""
    lam, mu = 1 / np.sqrt(max(w.shape)), w.size / (4 * np.abs(w).sum())
    s, y = np.zeros_like(w), np.zeros_like(w)
    for _ in range(iterations):
        left, sigma, right = np.linalg.svd(w - s + y / mu, full_matrices=False)
        l = (left * np.maximum(sigma - 1 / mu, 0)) @ right  # noqa: E741
        rest = w - l + y / mu
        s = np.sign(rest) * np.maximum(np.abs(rest) - lam / mu, 0)
        y = y + mu * (w - l - s)
    return l, s, float(np.linalg.norm(w - l - s) / np.linalg.norm(w))
