"""The torch operators that run packed layers: `sparlow::nm24_linear`, `sparlow::nm24_stack`, `sparlow::bits_linear`.

They have no backward pass, allocate nothing but their output (`bits_linear` with many tokens a dense weight as well)
and may be captured in CUDA graphs. Importing this module registers them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparlow import packed
from sparlow.packed import ALL_PARTS, Shape


def _check(x: Tensor, buffer: Tensor, bias: Tensor | None, d_out: int) -> None:
    if x.dtype != buffer.dtype or x.device != buffer.device:
        raise ValueError(f"x is {x.dtype} on {x.device}, the packed layer {buffer.dtype} on {buffer.device}")
    if bias is not None and (bias.shape != (d_out,) or bias.dtype != x.dtype or bias.device != x.device):
        raise ValueError(
            f"bias must be {x.dtype} [{d_out}] on {x.device}, got {bias.dtype} {list(bias.shape)} on {bias.device}"
        )


def _run(x: Tensor, buffer: Tensor, bias: Tensor | None, shape: Shape, part: int = ALL_PARTS) -> Tensor:
    """y of a layer, of a whole stack, or of one of its parts."""
    rows = shape.d_out if part == ALL_PARTS else shape.rows[part]
    _check(x, buffer, bias, rows)
    packed.check_buffer(shape, buffer)
    x = x.contiguous()
    if x.data_ptr() % 8:
        x = x.clone()
    bias = None if bias is None else bias.contiguous()
    y = x.new_empty(*x.shape[:-1], rows)
    address = 0 if bias is None else bias.data_ptr()
    tokens = x.numel() // shape.d_in
    packed.ops_of(x.device).forward(
        shape.native(x.dtype), part, buffer.data_ptr(), address, x.data_ptr(), y.data_ptr(), tokens,
        packed.stream_of(x.device),
    )  # fmt: skip
    return y


def _linear(x: Tensor, buffer: Tensor, bias: Tensor | None, d_out: int, rank: int) -> Tensor:
    return _run(x, buffer, bias, Shape("nm24", d_out, x.shape[-1], rank))


def _stack(x: Tensor, buffer: Tensor, biases: list[Tensor], rows: list[int], rank: int, part: int) -> Tensor:
    shape = Shape("nm24", sum(rows), x.shape[-1], rank, rows=tuple(rows))
    if not biases:
        return _run(x, buffer, None, shape, part)
    return _run(x, buffer, _joined(biases) if part == ALL_PARTS else biases[part], shape, part)


def _joined(biases: Sequence[Tensor]) -> Tensor:
    """All in a row: `Stack` lets them lie so, a copy of a model does not."""
    first, end = biases[0], biases[0].data_ptr()
    for bias in biases:
        if bias.data_ptr() != end or not bias.is_contiguous():
            return torch.cat(list(biases))
        end += bias.numel() * bias.element_size()
    return first.as_strided((sum(bias.numel() for bias in biases),), (1,))


def _bits(
    x: Tensor,
    buffer: Tensor,
    bias: Tensor | None,
    format: str,
    d_out: int,
    rank: int,
    stored: int,
    sign_rank: int,
    most: int,
) -> Tensor:
    shape = Shape(format, d_out, x.shape[-1], rank, stored, sign_rank, most_in_tile=most)
    if x.numel() <= _most_tokens(shape, buffer) * shape.d_in:
        return _run(x, buffer, bias, shape)
    _check(x, buffer, bias, d_out)
    return _expanded(x, buffer, bias, shape)


def _most_tokens(shape: Shape, buffer: Tensor) -> int:
    return packed.ops_of(buffer.device).most_tokens(shape.native(buffer.dtype))


def _expanded(x: Tensor, buffer: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
    packed.check_buffer(shape, buffer)
    w = buffer.new_empty(shape.d_out, shape.d_in)
    ops, native = packed.ops_of(buffer.device), shape.native(buffer.dtype)
    ops.expand(native, buffer.data_ptr(), w.data_ptr(), packed.stream_of(buffer.device))
    if shape.rank:
        u, v = buffer.new_empty(shape.d_out, shape.rank), buffer.new_empty(shape.rank, shape.d_in)
        ops.unpack_factors(native, buffer.data_ptr(), u.data_ptr(), v.data_ptr(), packed.stream_of(buffer.device))
        w.addmm_(u, v)  # a product apart would round y twice
    return functional.linear(x, w, bias)


def _fake_linear(x: Tensor, buffer: Tensor, bias: Tensor | None, d_out: int, rank: int) -> Tensor:
    del buffer, bias, rank
    return x.new_empty(*x.shape[:-1], d_out)


def _fake_stack(x: Tensor, buffer: Tensor, biases: list[Tensor], rows: list[int], rank: int, part: int) -> Tensor:
    del buffer, biases, rank
    return x.new_empty(*x.shape[:-1], sum(rows) if part == ALL_PARTS else rows[part])


def _fake_bits(
    x: Tensor,
    buffer: Tensor,
    bias: Tensor | None,
    format: str,
    d_out: int,
    rank: int,
    stored: int,
    sign_rank: int,
    most: int,
) -> Tensor:
    del buffer, bias, format, rank, stored, sign_rank, most
    return x.new_empty(*x.shape[:-1], d_out)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del ctx, inputs, output


def _backward(ctx: Any, grad: Tensor) -> None:
    del ctx, grad
    raise RuntimeError(
        "a layer packed for inference has no backward pass; call model.train() before the forward pass, or run it "
        "under torch.no_grad()"
    )


_OPERATORS: dict[str, tuple[str, Callable[..., Tensor], Callable[..., Tensor]]] = {
    "nm24_linear": (
        "(Tensor x, Tensor packed, Tensor? bias, SymInt d_out, SymInt rank) -> Tensor",
        _linear,
        _fake_linear,
    ),
    "nm24_stack": (
        "(Tensor x, Tensor packed, Tensor[] biases, SymInt[] rows, SymInt rank, int part) -> Tensor",
        _stack,
        _fake_stack,
    ),
    "bits_linear": (
        "(Tensor x, Tensor packed, Tensor? bias, str format, SymInt d_out, SymInt rank, SymInt stored, SymInt sign_rank"
        ", SymInt most_in_tile) -> Tensor",
        _bits,
        _fake_bits,
    ),
}


def _register() -> None:
    for name, (schema, on_cuda, fake) in _OPERATORS.items():
        operator = f"sparlow::{name}"
        torch.library.define(operator, schema)
        torch.library.impl(operator, "CUDA", on_cuda)
        torch.library.register_fake(operator, fake)
        torch.library.register_autograd(operator, _backward, setup_context=_save_nothing)


if not hasattr(torch.ops.sparlow, "nm24_linear"):
    _register()

nm24_linear = torch.ops.sparlow.nm24_linear.default
nm24_stack = torch.ops.sparlow.nm24_stack.default
bits_linear = torch.ops.sparlow.bits_linear.default
