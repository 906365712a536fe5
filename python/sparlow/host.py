"""The operator `sparlow::host_linear`: a compressed layer on the CPU, run from its packed tensors by libsparlow.

Importing this module registers the operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparlow import _core, ops

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LARGE = 1 << 22  # elements of a matrix whose unpacking is felt


def most_tokens(d_out: int, d_in: int, dtype: torch.dtype) -> int:
    """From there on unpacking once and torch's dense product are faster; measured, bfloat16 has products of its own."""
    few = 8 if dtype == torch.bfloat16 else 16
    return 4 * few if d_out * d_in >= LARGE else few


def runs(x: Tensor, values: Tensor, format: str, d_out: int, parameters: tuple[Tensor | None, ...]) -> bool:
    """Whether the operator is the fastest way, and right: it has no gradient and knows no autocast."""
    if format == "dense" or x.device.type != "cpu" or x.dtype != values.dtype or x.dtype not in DTYPES:
        return False
    d_in = x.shape[-1]
    if torch.is_autocast_enabled("cpu") or not 0 < x.numel() <= most_tokens(d_out, d_in, x.dtype) * d_in:
        return False
    return not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters)))


def _linear(x: Tensor, values: Tensor, meta: Tensor, u: Tensor, v: Tensor, bias: Tensor | None, format: str) -> Tensor:
    d_out, rank = u.shape
    d_in = v.shape[1]
    if x.shape[-1] != d_in or not meta.shape == (d_out, (d_in + 7) // 8):
        raise ValueError(f"x {list(x.shape)} and meta {list(meta.shape)} do not fit a {d_out} x {d_in} layer")
    floats = (values, u, v) if bias is None else (values, u, v, bias)
    if any(t.dtype != x.dtype for t in floats) or v.shape[0] != rank or not (bias is None or bias.shape == (d_out,)):
        raise ValueError("values, u, v and bias must have the type of x and the layer's shapes")
    parts = [t.contiguous() for t in (values, meta, u, v)]
    bias = None if bias is None else bias.contiguous()
    rows = x.contiguous().reshape(-1, d_in)
    y = x.new_empty(rows.shape[0], d_out)
    addresses = [t.data_ptr() for t in parts] + [0 if bias is None else bias.data_ptr()]
    dtype = str(x.dtype).removeprefix("torch.")
    layer = _core.CpuLayer(format, dtype, d_out, d_in, rank, values.numel(), addresses, True)
    bytes = layer.workspace_bytes(rows.shape[0])
    workspace = torch.empty(bytes + 63, dtype=torch.uint8)
    start = -(-workspace.data_ptr() // 64) * 64
    layer.forward(rows.data_ptr(), y.data_ptr(), rows.shape[0], start, bytes)
    return y.reshape(*x.shape[:-1], d_out)


def _fake(x: Tensor, values: Tensor, meta: Tensor, u: Tensor, v: Tensor, bias: Tensor | None, format: str) -> Tensor:
    del values, meta, v, bias, format
    return x.new_empty(*x.shape[:-1], u.shape[0])


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del ctx, inputs, output


def _backward(ctx: Any, grad: Tensor) -> None:
    del ctx, grad
    raise ops.no_packed_gradient()


if not hasattr(torch.ops.sparlow, "host_linear"):
    torch.library.define(
        "sparlow::host_linear",
        "(Tensor x, Tensor values, Tensor meta, Tensor u, Tensor v, Tensor? bias, str format) -> Tensor",
    )
    torch.library.impl("sparlow::host_linear", "CPU", _linear)
    torch.library.register_fake("sparlow::host_linear", _fake)
    torch.library.register_autograd("sparlow::host_linear", _backward, setup_context=_save_nothing)

host_linear = torch.ops.sparlow.host_linear.default
