"""What a solver answers: the terms that add up to the weight, and how it went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Report:
    """What a solver says of its result; numerical outcomes are data here, not errors.

    ``loss`` is tr(E H Eᵀ) with E = W minus the decomposition and H the undamped Gram matrix, computed in f64;
    ``relative_loss`` divides it by tr(W H Wᵀ). Both are NaN when there was no Gram matrix. ``damping_used``
    is the sum of the damping coefficients in force, larger than asked when it had to be raised. ``seconds``
    covers all weights that were solved together.
    """

    status: Literal["direct", "completed", "converged", "iteration_limit"]
    iterations: int
    loss: float
    relative_loss: float
    density: float
    rank: int
    damping_used: float
    dead_columns: int
    seconds: float


@dataclass(frozen=True)
class Signed:
    """The signed term (u v) ∘ B: ``u`` [d_out, k], ``v`` [k, d_in] f32; ``signs`` [d_out, d_in] bool, True for +1."""

    signs: Tensor
    u: Tensor
    v: Tensor

    def dense(self) -> Tensor:
        """(u v) ∘ B [d_out, d_in] in the dtype of u."""
        plain = self.u @ self.v
        return torch.where(self.signs, plain, -plain)


@dataclass(frozen=True)
class Decomposition:
    """W ≈ s + u v, plus ``signed`` from methods with a signed term.

    ``s`` [d_out, d_in] with exact zeros off its pattern, ``u`` [d_out, r], ``v`` [r, d_in]; f32.
    """

    s: Tensor
    u: Tensor
    v: Tensor
    report: Report
    signed: Signed | None = None

    def dense(self) -> Tensor:
        """The sum of all terms [d_out, d_in], f32."""
        low_rank = self.s + self.u @ self.v
        return low_rank if self.signed is None else low_rank + self.signed.dense()
