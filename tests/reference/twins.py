"""Slow f64 twins of the methods, written from the published formulas with NumPy and nothing of sparlow.

Shapes and names follow the papers: w [d_out, d_in], gram = XᵀX [d_in, d_in], s sparse, l low rank.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


def project(score: Matrix, pattern: str) -> Mask:
    """Support of the entries of largest magnitude that the pattern allows; equals keep the lowest index."""
    rows, cols = score.shape
    if pattern == "dense":
        return np.ones(score.shape, dtype=bool)
    if ":" in pattern:
        kept, length = map(int, pattern.split(":"))
    else:
        density, scope = pattern.split("@")
        length = cols if scope == "row" else rows * cols
        kept = int(np.floor(float(density) * length + 0.5))
    groups = -np.abs(score).reshape(-1, length)
    mask = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(mask, np.argsort(groups, axis=1, kind="stable")[:, :kept], True, axis=1)
    return mask.reshape(score.shape)


def magnitude(w: Matrix, pattern: str) -> Matrix:
    """Keeps the largest |w_ij|."""
    return np.where(project(w, pattern), w, 0.0)


def wanda(w: Matrix, gram: Matrix, pattern: str) -> Matrix:
    """Keeps the largest |w_ij| ||x_j||_2 (Sun, Liu, Bair, Kolter, arXiv:2306.11695, section 3)."""
    return np.where(project(w * np.sqrt(np.diag(gram)), pattern), w, 0.0)


def loss(w: Matrix, w_hat: Matrix, gram: Matrix) -> float:
    """||X (W - Ŵ)ᵀ||² = tr(E G Eᵀ)."""
    e = w - w_hat
    return float(np.sum((e @ gram) * e))


def best_low_rank(residual: Matrix, values: Matrix, vectors: Matrix, rank: int) -> Matrix:
    """argmin over rank(l) <= rank of tr((residual - l) h (residual - l)ᵀ), h = vectors diag(values) vectorsᵀ."""
    root = vectors * np.sqrt(values)  # h = root rootᵀ
    u, sigma, v = np.linalg.svd(residual @ root, full_matrices=False)
    best: Matrix = (u[:, :rank] * sigma[:rank]) @ v[:rank] / np.sqrt(values) @ vectors.T
    return best


def threebasil(
    w: Matrix, gram: Matrix, pattern: str, rank: int, damping: tuple[float, float] = (0.005, 0.005), limit: int = 2000
) -> tuple[Matrix, Matrix]:
    """(s, l) of three-block ADMM as published (Makni, Meng, Mazumder, arXiv:2603.01376): no refit at the end."""
    diagonal = np.diag(gram)
    damped = gram + np.diag(damping[0] * diagonal + damping[1] * diagonal.mean())
    scale = np.sqrt(np.diag(damped))
    h, target = damped / np.outer(scale, scale), w * scale
    values, vectors = np.linalg.eigh(h)
    rho, grown = 0.1, False
    support = project(target, pattern)
    checked, kept = support, support.sum()
    d, v, l = np.where(support, target, 0.0), np.zeros_like(w), np.zeros_like(w)  # noqa: E741  (the paper's letter)
    for iteration in range(1, limit + 1):
        right = (target - l) @ h - v + rho * d
        s = ((right @ vectors) / (values + rho)) @ vectors.T
        support = project(s + v / rho, pattern)
        d = np.where(support, s + v / rho, 0.0)
        v = v + rho * (s - d)
        if rank:
            l = best_low_rank(target - s, values, vectors, rank)  # noqa: E741
        if iteration % 10:
            continue
        moved, checked = (support != checked).sum() / kept, support
        if iteration >= 100 and moved < 3e-4:
            break
        if moved == 0 and grown:
            break
        if moved > 0.1:
            rho, grown = rho * 1.1, True
        elif moved > 0.005:
            rho, grown = rho * 1.05, True
        elif moved > 0 and grown:
            rho *= 1.02
        else:
            rho /= 5
            if moved > 0:
                support = project(target, pattern)
                d, v = np.where(support, target, 0.0), np.zeros_like(w)
    return np.where(project(s, pattern), s, 0.0) / scale, l / scale
