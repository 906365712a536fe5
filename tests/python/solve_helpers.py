"""What the tests of decompose() share."""

from __future__ import annotations

import torch

from sparlow import Decomposition


def dense(result: Decomposition) -> torch.Tensor:
    """S + U V, and the signed term if there is one, in f64."""
    low_rank = result.s.double() + result.u.double() @ result.v.double()
    if result.signed is None:
        return low_rank
    signs = torch.where(result.signed.signs, 1.0, -1.0).double()
    return low_rank + signs * (result.signed.u.double() @ result.signed.v.double())


def exact_loss(w: torch.Tensor, w_hat: torch.Tensor, gram: torch.Tensor) -> float:
    """tr(E G Eᵀ) in f64."""
    e = w.double() - w_hat.double()
    return float(((e @ gram.double()) * e).sum())
