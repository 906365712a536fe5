"""torch operators `sparlow::nm24_unpack`, `sparlow::bitmap_unpack`: (values, meta, cols) -> S [d_out, cols].

Importing this module registers them; a second import (module reload) finds them there and leaves them alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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

nm24_unpack = torch.ops.sparlow.nm24_unpack.default
bitmap_unpack = torch.ops.sparlow.bitmap_unpack.default
