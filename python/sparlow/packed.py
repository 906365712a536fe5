"""Layers in the layout of a GPU's kernels: packing, exact unpacking and the operator `sparlow::nm24_linear`.

One buffer holds S, U and V of a layer as `sparlow._core.LinearOps` lays them out; here it is a 1-D tensor of the
layer's own dtype. Importing this module registers the operator.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from sparlow import _core

DTYPES = (torch.bfloat16, torch.float16)


@functools.cache
def _ops(index: int) -> _core.LinearOps | str:
    try:
        return _core.make_linear_ops(f"cuda:{index}")
    except RuntimeError as error:
        return str(error)


def _ops_of(device: torch.device) -> _core.LinearOps:
    reason = why_not(device)
    if reason is not None:
        raise RuntimeError(f"a layer packed for a GPU cannot be used here: {reason}")
    ops = _ops(_index(device))
    assert not isinstance(ops, str)
    return ops


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def why_not(device: torch.device) -> str | None:
    """Why layers cannot run packed on `device`; None if they can."""
    if device.type != "cuda":
        return f"layers run packed on NVIDIA GPUs, not on device {device.type!r}"
    found = _ops(_index(device))
    return found if isinstance(found, str) else None


@functools.lru_cache(maxsize=4096)
def _shape(d_out: int, d_in: int, rank: int, dtype: torch.dtype) -> _core.LinearShape:
    return _core.LinearShape(d_out, d_in, rank, str(dtype).removeprefix("torch."))


def kernel_name(d_out: int, d_in: int, rank: int, dtype: torch.dtype, tokens: int, device: torch.device) -> str:
    """Which kernel runs such a layer for so many tokens. RuntimeError where none does."""
    return _ops_of(device).kernel(_shape(d_out, d_in, rank, dtype), tokens)


def _stream(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream)


def _tensors(values: Tensor, meta: Tensor, u: Tensor, v: Tensor) -> _core.LinearTensors:
    return _core.LinearTensors(values.data_ptr(), meta.data_ptr(), u.data_ptr(), v.data_ptr())


def pack(values: Tensor, meta: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Checkpoint tensors on a GPU (layouts in `sparlow.formats`; u [d_out, rank], v [rank, d_in]) -> one buffer."""
    values, meta, u, v = (t.contiguous() for t in (values, meta, u, v))
    ops, shape = _ops_of(values.device), _shape(u.shape[0], v.shape[1], u.shape[1], values.dtype)
    packed = values.new_empty(ops.packed_bytes(shape) // values.element_size())
    ops.pack(shape, _tensors(values, meta, u, v), packed.data_ptr(), _stream(values.device))
    return packed


def unpack(packed: Tensor, d_out: int, d_in: int, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The exact inverse of `pack`: (values, meta, u, v)."""
    ops, shape = _ops_of(packed.device), _shape(d_out, d_in, rank, packed.dtype)
    _check_packed(ops, shape, packed)
    values, u, v = packed.new_empty(d_out, d_in // 2), packed.new_empty(d_out, rank), packed.new_empty(rank, d_in)
    meta = torch.empty(d_out, (d_in + 7) // 8, dtype=torch.uint8, device=packed.device)
    ops.unpack(shape, packed.data_ptr(), _tensors(values, meta, u, v), _stream(packed.device))
    return values, meta, u, v


def _check_packed(ops: _core.LinearOps, shape: _core.LinearShape, packed: Tensor) -> None:
    bytes_found, bytes_wanted = packed.numel() * packed.element_size(), ops.packed_bytes(shape)
    if bytes_found != bytes_wanted or not packed.is_contiguous():
        raise ValueError(f"the packed buffer of this layer has {bytes_wanted} bytes in a row, got {bytes_found}")


def _check(x: Tensor, packed: Tensor, bias: Tensor | None, d_out: int) -> None:
    if x.dtype != packed.dtype or x.device != packed.device:
        raise ValueError(f"x is {x.dtype} on {x.device}, the packed layer {packed.dtype} on {packed.device}")
    if bias is not None and (bias.shape != (d_out,) or bias.dtype != x.dtype or bias.device != x.device):
        raise ValueError(
            f"bias must be {x.dtype} [{d_out}] on {x.device}, got {bias.dtype} {list(bias.shape)} on {bias.device}"
        )


def _linear(x: Tensor, packed: Tensor, bias: Tensor | None, d_out: int, rank: int) -> Tensor:
    _check(x, packed, bias, d_out)
    d_in = x.shape[-1]
    ops, shape = _ops_of(x.device), _shape(d_out, d_in, rank, x.dtype)
    _check_packed(ops, shape, packed)
    x = x.contiguous()
    if x.data_ptr() % 8:
        x = x.clone()
    bias = None if bias is None else bias.contiguous()
    y = x.new_empty(*x.shape[:-1], d_out)
    tokens = x.numel() // d_in
    address = 0 if bias is None else bias.data_ptr()
    ops.forward(shape, packed.data_ptr(), address, x.data_ptr(), y.data_ptr(), tokens, _stream(x.device))
    return y


def _fake(x: Tensor, packed: Tensor, bias: Tensor | None, d_out: int, rank: int) -> Tensor:
    del packed, bias, rank
    return x.new_empty(*x.shape[:-1], d_out)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del ctx, inputs, output


def _backward(ctx: Any, grad: Tensor) -> None:
    del ctx, grad
    raise RuntimeError(
        "a layer packed for inference has no backward pass; call model.train() before the forward pass, or run it "
        "under torch.no_grad()"
    )


if not hasattr(torch.ops.sparlow, "nm24_linear"):
    torch.library.define(
        "sparlow::nm24_linear", "(Tensor x, Tensor packed, Tensor? bias, SymInt d_out, SymInt rank) -> Tensor"
    )
    torch.library.impl("sparlow::nm24_linear", "CUDA", _linear)
    torch.library.register_fake("sparlow::nm24_linear", _fake)
    torch.library.register_autograd("sparlow::nm24_linear", _backward, setup_context=_save_nothing)

nm24_linear = torch.ops.sparlow.nm24_linear.default
