"""What can be trained of a compressed layer: addends of its weight, each with its own parameters.

A term holds its parameters in float32, divided by a power of two near their root mean square: one learning rate then
means the same relative step for all of them, and taking the factor out again is exact. The weight is formed once per
step as a dense matrix; the gradients of all terms follow from the gradient of that matrix by thin products.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Term(Protocol):
    """One addend of a weight [d_out, d_in].

    masters: the trained tensors, float32; changed in place by the optimizer. count: how many numbers may change.
    """

    masters: list[Tensor]
    count: int

    def added(self, weight: Tensor | None) -> Tensor:
        """`weight` + this term, float32; `weight` may be overwritten, None means zero."""

    def gradients(self, dw: Tensor) -> list[Tensor]:
        """Gradients of the masters, float32, from that of the weight in any dtype."""

    def values(self) -> list[Tensor]:
        """The trained tensors in their own unit, float32, in the order of the masters."""


class SparseTerm:
    """S with its support fixed; also any full vector, a bias or a norm. Entries that are 0 at the start stay 0."""

    def __init__(self, s: Tensor, dtype: torch.dtype) -> None:
        """s: any shape; dtype: in which gradients arrive."""
        support = s != 0 if s.ndim > 1 else torch.ones_like(s, dtype=torch.bool)
        self.count = int(support.sum())
        self._scale = _scale(s.float(), self.count)
        self._gate = support.to(dtype) * self._scale
        self.masters = [s.float() / self._scale]

    def added(self, weight: Tensor | None) -> Tensor:
        (s,) = self.masters
        return s * self._scale if weight is None else weight.add_(s, alpha=self._scale)

    def gradients(self, dw: Tensor) -> list[Tensor]:
        return [torch.mul(dw, self._gate, out=torch.empty_like(self.masters[0]))]

    def values(self) -> list[Tensor]:
        return [self.masters[0] * self._scale]


class LowRankTerm:
    """U V."""

    def __init__(self, u: Tensor, v: Tensor) -> None:
        """u [d_out, r], v [r, d_in]."""
        self.count = u.numel() + v.numel()
        self._scales = [_scale(factor.float(), factor.numel()) for factor in (u, v)]
        self.masters = [factor.float() / scale for factor, scale in zip((u, v), self._scales, strict=True)]

    def added(self, weight: Tensor | None) -> Tensor:
        u, v = self.masters
        alpha = math.prod(self._scales)
        return alpha * (u @ v) if weight is None else weight.addmm_(u, v, alpha=alpha)

    def gradients(self, dw: Tensor) -> list[Tensor]:
        u, v = (master.to(dw.dtype) for master in self.masters)
        alpha = math.prod(self._scales)
        return [(dw @ v.T).float().mul_(alpha), (u.T @ dw).float().mul_(alpha)]

    def values(self) -> list[Tensor]:
        return [master * scale for master, scale in zip(self.masters, self._scales, strict=True)]


class SignedTerm(LowRankTerm):
    """(U V) ∘ B with the signs B fixed."""

    def __init__(self, signs: Tensor, u: Tensor, v: Tensor) -> None:
        """signs: bool [d_out, d_in], True for +1; u [d_out, r], v [r, d_in]."""
        super().__init__(u, v)
        self.signs = signs

    def added(self, weight: Tensor | None) -> Tensor:
        term = self._signed(super().added(None))
        return term if weight is None else weight.add_(term)

    def gradients(self, dw: Tensor) -> list[Tensor]:
        return super().gradients(self._signed(dw))

    def _signed(self, x: Tensor) -> Tensor:
        return torch.where(self.signs, x, -x)


def _scale(values: Tensor, count: int) -> float:
    """The power of two next to the root mean square over `count` entries; 1 if they are all zero."""
    norm = float(values.norm())
    return 2.0 ** round(math.log2(norm / math.sqrt(count))) if norm > 0 else 1.0
