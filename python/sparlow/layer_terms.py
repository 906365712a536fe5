"""The terms of a layer before they are packed: shapes that fit, values that the stored type can hold."""

from __future__ import annotations

import torch
from torch import Tensor

from sparlow.decomposition import Signed


def check_shapes(s: Tensor, u: Tensor, v: Tensor, bias: Tensor | None, signed: Signed | None) -> None:
    """ValueError if s [d_out, d_in], u [d_out, r], v [r, d_in], bias [d_out] and the signed term do not fit."""
    shapes = f"s {list(s.shape)}, u {list(u.shape)}, v {list(v.shape)}"
    if s.dim() != 2 or u.dim() != 2 or v.dim() != 2:
        raise ValueError(f"s, u and v must be matrices, got {shapes}")
    if u.shape[0] != s.shape[0] or v.shape[1] != s.shape[1] or u.shape[1] != v.shape[0]:
        raise ValueError(f"shapes do not fit s + u v: {shapes}")
    if bias is not None and bias.shape != (s.shape[0],):
        raise ValueError(f"bias must have {s.shape[0]} elements, got {list(bias.shape)}")
    if signed is not None:
        parts = [list(x.shape) for x in (signed.signs, signed.u, signed.v)]
        rank = signed.u.shape[-1]
        if parts != [list(s.shape), [s.shape[0], rank], [rank, s.shape[1]]]:
            raise ValueError(f"shapes of signs, u and v {parts} do not fit a signed term of s {list(s.shape)}")


def rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy in `dtype`. ValueError naming the term if a value does not fit."""
    values = tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(values).all()):
        largest = float(tensor.detach().abs().max())
        hint = "store it as bfloat16 or float32" if dtype == torch.float16 else "the solver returned it so"
        raise ValueError(f"{name} is not finite in {dtype} (largest magnitude {largest:.4g}); {hint}")
    return values
