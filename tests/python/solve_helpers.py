"""What the tests of decompose() share."""

from __future__ import annotations

import torch

from sparlow import Decomposition


def dense(result: Decomposition) -> torch.Tensor:
    """S + U V in f64."""
    return result.s.double() + result.u.double() @ result.v.double()


def exact_loss(w: torch.Tensor, w_hat: torch.Tensor, gram: torch.Tensor) -> float:
    """tr(E G Eᵀ) in f64."""
    e = w.double() - w_hat.double()
    return float(((e @ gram.double()) * e).sum())
