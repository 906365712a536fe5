"""Storage of the signed term (U V) ∘ B: the signs B as one bit each, U and V as they are.

sign_bits uint8 [d_out, ceil(d_in/8)]: bit i of byte b is column 8 b + i; 1 is +1, 0 is -1; unused bits are zero.
Importing this module registers the torch operator `sparlow::signs_unpack`: (bits, cols) -> bool [d_out, cols].
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparlow import _core

_OPERATOR = "sparlow::signs_unpack"


def pack_signs(signs: Tensor) -> Tensor:
    """bool [d_out, d_in], True for +1 -> uint8 [d_out, ceil(d_in/8)] on the same device."""
    rows, cols = signs.shape
    if signs.device.type != "cpu":
        return pack_signs_by_torch(signs)
    signs, bits = signs.contiguous(), torch.empty(rows, (cols + 7) // 8, dtype=torch.uint8)
    _core.signs_pack(signs.data_ptr(), rows, cols, bits.data_ptr())
    return bits


def pack_signs_by_torch(signs: Tensor) -> Tensor:
    """`pack_signs` on any device."""
    padded = torch.nn.functional.pad(signs, (0, -signs.shape[1] % 8)).to(torch.uint8).reshape(signs.shape[0], -1, 8)
    weight = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8, device=signs.device)
    return (padded * weight).sum(-1, dtype=torch.uint8)


def unpack_signs_by_torch(bits: Tensor, cols: int) -> Tensor:
    """`unpack_signs` on any device."""
    _check_bits(bits, cols)
    shift = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits.unsqueeze(-1) >> shift & 1).reshape(bits.shape[0], -1)[:, :cols].bool()


def dense_signed(bits: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """(u v) ∘ B [d_out, d_in] in float32 from its stored form; differentiable in u and v."""
    plain = u.float() @ v.float()
    return torch.where(unpack_signs(bits, v.shape[1]), plain, -plain)


def check_signs(bits: Tensor, cols: int, name: str) -> None:
    """Raise ValueError naming layer `name` if bits beyond the last column are set."""
    if cols % 8 and bool((bits[:, -1] >> cols % 8).any()):
        raise ValueError(f"layer {name!r}: sign_bits has signs beyond column {cols - 1}")


def _check_bits(bits: Tensor, cols: int) -> None:
    if bits.dtype != torch.uint8 or bits.dim() != 2 or bits.shape[1] != (cols + 7) // 8:
        raise ValueError(f"signs of {cols} columns must be uint8 [d_out, {(cols + 7) // 8}], got {list(bits.shape)}")


def _unpack_on_cpu(bits: Tensor, cols: int) -> Tensor:
    _check_bits(bits, cols)
    bits, signs = bits.contiguous(), torch.empty(bits.shape[0], cols, dtype=torch.bool)
    _core.signs_unpack(bits.data_ptr(), bits.shape[0], cols, signs.data_ptr())
    return signs


def _fake(bits: Tensor, cols: int) -> Tensor:
    return bits.new_empty(bits.shape[0], cols, dtype=torch.bool)


def _register() -> None:
    torch.library.define(_OPERATOR, "(Tensor bits, SymInt cols) -> Tensor")
    torch.library.impl(_OPERATOR, "CPU", _unpack_on_cpu)
    torch.library.impl(_OPERATOR, "CompositeExplicitAutograd", unpack_signs_by_torch)
    torch.library.register_fake(_OPERATOR, _fake)


if not hasattr(torch.ops.sparlow, "signs_unpack"):
    _register()

unpack_signs = torch.ops.sparlow.signs_unpack.default
