"""torch operators: `sparlow::nm24_unpack` and `bitmap_unpack`, (values, meta, cols) -> S [d_out, cols], and
`sparlow::nm24_host_linear`, a 2:4 + low-rank layer on the CPU without a gradient.

Importing this module registers them; a second import (module reload) finds them there and leaves them alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparlow import formats, native

_Unpack = Callable[[Tensor, Tensor, int], Tensor]
# name -> (CPU, every other device)
_UNPACK: dict[str, tuple[_Unpack, _Unpack]] = {
    "nm24_unpack": (native.nm24_unpack, formats.nm24_unpack),
    "bitmap_unpack": (native.bitmap_unpack, formats.bitmap_unpack),
}


def _fake(values: Tensor, meta: Tensor, cols: int) -> Tensor:
    return values.new_empty(meta.shape[0], cols)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del ctx, inputs, output


def no_packed_gradient() -> RuntimeError:
    """The error for a gradient that would have to flow into packed values."""
    return RuntimeError(
        "packed sparse weights have no gradient: freeze them with weight_packed.requires_grad_(False) and "
        "train low_rank_u, low_rank_v, the bias or an adapter; or train the dense model of model.dequantize()"
    )


def _backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
    del ctx, grad
    raise no_packed_gradient()


def _register(name: str) -> None:
    operator = f"sparlow::{name}"
    torch.library.define(operator, "(Tensor values, Tensor meta, SymInt cols) -> Tensor")
    on_cpu, elsewhere = _UNPACK[name]
    torch.library.impl(operator, "CPU", on_cpu)
    torch.library.impl(operator, "CompositeExplicitAutograd", elsewhere)
    torch.library.register_fake(operator, _fake)
    torch.library.register_autograd(operator, _backward, setup_context=_save_nothing)


for _name in _UNPACK:
    if not hasattr(torch.ops.sparlow, _name):
        _register(_name)

# Up to here a pass over the packed weights for every four tokens is faster than unpacking them; measured on two cores.
MOST_TOKENS_FOR_ROWS = 8


def _host_linear(x: Tensor, values: Tensor, meta: Tensor, u: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    if x.numel() <= MOST_TOKENS_FOR_ROWS * x.shape[-1]:
        return native.nm24_forward(x, values, meta, u, v, bias)
    y = functional.linear(x, native.nm24_unpack(values, meta, x.shape[-1]), bias)
    return y if u.shape[1] == 0 else y + functional.linear(functional.linear(x, v), u)


def _fake_host_linear(x: Tensor, values: Tensor, meta: Tensor, u: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    del values, meta, v, bias
    return x.new_empty(*x.shape[:-1], u.shape[0])


def _no_backward(ctx: Any, grad: Tensor) -> None:
    del ctx, grad
    raise RuntimeError("sparlow::nm24_host_linear has no backward pass: call it under torch.no_grad()")


if not hasattr(torch.ops.sparlow, "nm24_host_linear"):
    torch.library.define(
        "sparlow::nm24_host_linear",
        "(Tensor x, Tensor values, Tensor meta, Tensor u, Tensor v, Tensor? bias) -> Tensor",
    )
    torch.library.impl("sparlow::nm24_host_linear", "CPU", _host_linear)
    torch.library.register_fake("sparlow::nm24_host_linear", _fake_host_linear)
    torch.library.register_autograd("sparlow::nm24_host_linear", _no_backward, setup_context=_save_nothing)

nm24_host_linear = torch.ops.sparlow.nm24_host_linear.default
nm24_unpack = torch.ops.sparlow.nm24_unpack.default
bitmap_unpack = torch.ops.sparlow.bitmap_unpack.default
