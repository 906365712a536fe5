"""Synthetic layers that every folder of tests shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Layer:
    """A synthetic linear layer with the inputs it was calibrated on, f32: w [d_out, d_in], x [tokens, d_in]."""

    w: torch.Tensor
    x: torch.Tensor

    @property
    def gram(self) -> torch.Tensor:
        """XᵀX [d_in, d_in], f32, summed in f64."""
        wide = self.x.double()
        return (wide.T @ wide).float()


def build_layer(
    d_out: int = 48,
    d_in: int = 64,
    *,
    tokens: int = 256,
    low_rank: int = 4,
    strength: float = 1.0,
    outliers: int = 5,
    seed: int = 0,
) -> Layer:
    """Gaussian plus low-rank weights; correlated inputs with a decaying spectrum and a few loud channels."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((d_out, d_in))
    if low_rank:
        factors = rng.standard_normal((d_out, low_rank)) @ rng.standard_normal((low_rank, d_in))
        w += strength * factors / np.sqrt(low_rank)
    decay = 1 / np.sqrt(1 + np.arange(d_in) / 4)
    x = (rng.standard_normal((tokens, d_in)) * decay) @ rng.standard_normal((d_in, d_in)) / np.sqrt(d_in)
    x += 0.3 * rng.standard_normal((tokens, d_in))
    if outliers:
        x[:, rng.permutation(d_in)[:outliers]] *= 8
    return Layer(torch.from_numpy(w).float(), torch.from_numpy(x).float())
