"""Slow f64 twins of the methods with a signed term, from the formulas: c = b ∘ (u vᵀ), b = ±1."""

from __future__ import annotations

import numpy as np
from twins import Matrix, best_low_rank, project


def leading_pair(x: Matrix) -> tuple[Matrix, Matrix]:
    """(u, v) of the best rank-1 approximation u vᵀ."""
    left, sigma, right = np.linalg.svd(x, full_matrices=False)
    return left[:, 0] * sigma[0], right[0]


def slab(w: Matrix, gram: Matrix, pattern: str, sweeps: int = 20) -> tuple[Matrix, Matrix]:
    """(s, c) of alternating sweeps with the Wanda score on w - c (Li, Ma, Kang, arXiv:2604.04493)."""
    norms, s = np.sqrt(np.diag(gram)), np.zeros_like(w)
    for _ in range(sweeps):
        r = w - s
        c = np.where(r >= 0, 1.0, -1.0) * np.outer(*leading_pair(np.abs(r)))
        y = w - c
        s = np.where(project(y * norms, pattern), y, 0.0)
    return s, c


def masked_pair(x: Matrix, off: Matrix, u: Matrix, v: Matrix, steps: int = 3) -> tuple[Matrix, Matrix]:
    """Least squares of off ∘ (|x| - u vᵀ) by exact alternation."""
    for _ in range(steps):
        u = (off * np.abs(x)) @ v / np.maximum(off @ v**2, 1e-300)
        v = (off * np.abs(x)).T @ u / np.maximum(off.T @ u**2, 1e-300)
    return u, v


def slab_joint(
    w: Matrix, gram: Matrix, pattern: str, rank: int, damping: tuple[float, float] = (0.005, 0.005), steps: int = 200
) -> tuple[Matrix, Matrix, Matrix]:
    """(s, l, c) of three-block ADMM on x = s + c and l under the full Gram objective, penalty 0.2 to 1, no refit."""
    diagonal = np.diag(gram)
    damped = gram + np.diag(damping[0] * diagonal + damping[1] * diagonal.mean())
    scale = np.sqrt(np.diag(damped))
    h, target = damped / np.outer(scale, scale), w * scale
    values, vectors = np.linalg.eigh(h)
    kept = project(target, pattern)
    u, v = np.abs(target).mean(1), np.abs(target).mean(0)
    u, v = masked_pair(target, ~kept, u, v)
    c = np.sign(target) * np.outer(u, v)
    d, dual, l = np.where(kept, target, c), np.zeros_like(w), np.zeros_like(w)  # noqa: E741
    for step in range(steps):
        rho = 0.2 * 5 ** (step / steps)
        right = (target - l) @ h - dual + rho * d
        x = ((right @ vectors) / (values + rho)) @ vectors.T
        state = x + dual / rho
        u, v = masked_pair(state, ~kept, u, v, 1)
        c = np.where(state >= 0, 1.0, -1.0) * np.outer(u, v)
        kept = project(state - c, pattern)
        d = np.where(kept, state, c)
        dual = dual + rho * (x - d)
        if rank:
            l = best_low_rank(target - x, values, vectors, rank)  # noqa: E741
    return np.where(kept, x - c, 0.0) / scale, l / scale, c / scale
