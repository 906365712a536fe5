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


def damp(gram: Matrix, damping: tuple[float, float]) -> Matrix:
    """gram + damping[0] diag(gram) + damping[1] mean(diag gram) I"""
    diagonal = np.diag(gram)
    damped: Matrix = gram + np.diag(damping[0] * diagonal + damping[1] * diagonal.mean())
    return damped


def shares(width: int, cols: int, density: float, size: int) -> list[tuple[int, int, int]]:
    """(begin, end, kept) of blocks of columns whose kept entries add up to a share of `size` entries a column."""
    edges = [*range(0, cols, width), cols]
    upto = [int(np.floor(density * size * edge + 0.5)) for edge in edges]
    return [(*edges[i : i + 2], upto[i + 1] - upto[i]) for i in range(len(edges) - 1)]


def sparsegpt(
    w: Matrix, gram: Matrix, pattern: str, damping: tuple[float, float] = (0.005, 0.005), width: int = 128
) -> Matrix:
    """Optimal brain surgeon column by column (Frantar, Alistarh, arXiv:2301.00774, algorithm 1); an @row density is
    met in each row of a block of columns, an @matrix density over all rows of it."""
    w, (rows, cols) = w.copy(), w.shape
    u = np.linalg.cholesky(np.linalg.inv(damp(gram, damping))).T  # inverse = uᵀ u
    group, keep, by_row = (0, 0, pattern.endswith("row"))
    if ":" in pattern:
        keep, group = map(int, pattern.split(":"))
        width = max(1, width // group) * group
    density = keep / group if group else float(pattern.split("@")[0])
    mask = np.zeros(w.shape, dtype=bool)
    for begin, end, kept in shares(width, cols, density, 1 if by_row else rows):
        score = np.abs(w[:, begin:end]) / np.diag(u)[begin:end]
        if not group:
            order = np.argsort(-score if by_row else -score.reshape(1, -1), axis=1, kind="stable")[:, :kept]
            chosen = np.zeros(score.shape if by_row else (1, score.size), dtype=bool)
            np.put_along_axis(chosen, order, True, axis=1)
            mask[:, begin:end] = chosen.reshape(score.shape)
        for j in range(begin, end):
            if group and j % group == 0:
                now = w[:, j : j + group] / np.diag(u)[j : j + group]
                mask[:, j : j + group] = project(now, pattern)
            error = np.where(mask[:, j], 0.0, w[:, j]) / u[j, j]
            w[:, j:] -= np.outer(error, u[j, j:])
    return np.where(mask, w, 0.0)


def masked_descent(target: Matrix, h: Matrix, s: Matrix, steps: int) -> Matrix:
    """Conjugate gradients on the support of s, one step length a row: min tr((target - s) h (target - s)ᵀ)."""
    mask, s = s != 0, s.copy()
    residual = np.where(mask, (target - s) @ h, 0.0)
    direction, norms = residual, (residual**2).sum(1, keepdims=True)
    for _ in range(steps):
        product = direction @ h
        alpha = norms / np.maximum((direction * product).sum(1, keepdims=True), 1e-300)
        s += alpha * direction
        residual = np.where(mask, residual - alpha * product, 0.0)
        old, norms = norms, (residual**2).sum(1, keepdims=True)
        direction = residual + norms / np.maximum(old, 1e-300) * direction
    return s


def alps(
    w: Matrix, gram: Matrix, pattern: str, damping: tuple[float, float] = (0.005, 0.005), limit: int = 300
) -> Matrix:
    """ADMM on the support, then conjugate gradients on it (Meng et al., arXiv:2406.07831, section 3 and appendix)."""
    damped = damp(gram, damping)
    scale = np.sqrt(np.diag(damped))
    h, target = damped / np.outer(scale, scale), w * scale
    rho, grown = 0.1, False
    support = checked = project(target, pattern)
    d, v = np.where(support, target, 0.0), np.zeros_like(w)
    for iteration in range(1, limit + 1):
        s = np.linalg.solve(h + rho * np.eye(len(h)), (target @ h - v + rho * d).T).T
        support = project(s + v / rho, pattern)
        d = np.where(support, s + v / rho, 0.0)
        v = v + rho * (s - d)
        if iteration % 3:
            continue
        moved, checked = (support != checked).sum() / support.sum(), support
        if moved == 0 and grown:
            break
        if moved > 0.1:
            rho, grown = rho * 1.3, True
        elif moved > 0.005:
            rho, grown = rho * 1.2, True
        elif moved > 0 and grown:
            rho *= 1.1
        else:
            rho /= 5
            if moved > 0:
                support = checked = project(target, pattern)
                d, v = np.where(support, target, 0.0), np.zeros_like(w)
        if iteration > 30 and moved < 3e-4:
            break
    return masked_descent(target, h, np.where(project(s, pattern), s, 0.0), 10) / scale


def best_low_rank(residual: Matrix, values: Matrix, vectors: Matrix, rank: int) -> Matrix:
    """argmin over rank(l) <= rank of tr((residual - l) h (residual - l)ᵀ), h = vectors diag(values) vectorsᵀ."""
    root = vectors * np.sqrt(values)  # h = root rootᵀ
    u, sigma, v = np.linalg.svd(residual @ root, full_matrices=False)
    best: Matrix = (u[:, :rank] * sigma[:rank]) @ v[:rank] / np.sqrt(values) @ vectors.T
    return best


def damped_low_rank(residual: Matrix, gram: Matrix, damping: tuple[float, float], rank: int) -> Matrix:
    """The best fit of rank(l) <= rank under the damped Gram matrix, in scaled coordinates for its condition."""
    damped = damp(gram, damping)
    scale = np.sqrt(np.diag(damped))
    return best_low_rank(residual * scale, *np.linalg.eigh(damped / np.outer(scale, scale)), rank) / scale


def eora(
    w: Matrix, gram: Matrix, pattern: str, rank: int, damping: tuple[float, float] = (0.005, 0.005)
) -> tuple[Matrix, Matrix]:
    """(s, l): SparseGPT, then one truncated SVD of its error times the root of the Gram matrix (arXiv:2410.21271)."""
    s = sparsegpt(w, gram, pattern, damping)
    return s, damped_low_rank(w - s, gram, damping, rank)


def hassle_free(
    w: Matrix, gram: Matrix, pattern: str, rank: int, turns: int, damping: tuple[float, float] = (0.005, 0.005)
) -> tuple[Matrix, Matrix]:
    """(s, l) of SparseGPT and the closed-form fit in turn, the best pair kept (arXiv:2502.00899)."""
    l, found = np.zeros_like(w), []  # noqa: E741  (the paper's letter)
    for _ in range(turns):
        s = sparsegpt(w - l, gram, pattern, damping)
        l = damped_low_rank(w - s, gram, damping, rank)  # noqa: E741
        found.append((loss(w, s + l, damp(gram, damping)), s, l))
    return min(found, key=lambda entry: entry[0])[1:]


def oats(w: Matrix, gram: Matrix, pattern: str, rank: int, turns: int) -> tuple[Matrix, Matrix]:
    """(s, l): truncated SVD and thresholding in turn, columns times the norms of the inputs (arXiv:2409.13652)."""
    norms = np.sqrt(np.diag(gram))
    target, s = w * norms, np.zeros_like(w)
    for _ in range(turns):
        u, sigma, v = np.linalg.svd(target - s, full_matrices=False)
        l = (u[:, :rank] * sigma[:rank]) @ v[:rank]  # noqa: E741
        s = np.where(project(target - l, pattern), target - l, 0.0)
    return s / norms, l / norms


def threebasil(
    w: Matrix, gram: Matrix, pattern: str, rank: int, damping: tuple[float, float] = (0.005, 0.005), limit: int = 2000
) -> tuple[Matrix, Matrix]:
    """(s, l) of three-block ADMM as published (Makni, Meng, Mazumder, arXiv:2603.01376): no refit at the end."""
    damped = damp(gram, damping)
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
