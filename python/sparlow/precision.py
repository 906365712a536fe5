"""Lending a module another dtype and device for a while, without touching the tensors it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def lent(
    parameters: Iterable[nn.Parameter],
    dtype: torch.dtype,
    buffers: Iterable[Tensor] = (),
    device: str | None = None,
) -> Iterator[None]:
    """Give floating point parameters `dtype`, and all of them and the buffers `device`, until the block ends.

    The original tensors come back bit for bit, even if `dtype` is narrower. Buffers keep their dtype:
    rotary tables and the like are held in float32 on purpose.
    """
    tensors: list[tuple[Tensor, Tensor]] = []
    try:
        for parameter in parameters:
            tensors.append((parameter, parameter.data))
            parameter.data = parameter.data.to(device, dtype if parameter.is_floating_point() else None)
        for buffer in buffers:
            tensors.append((buffer, buffer.data))
            buffer.data = buffer.data.to(device)
        yield
    finally:
        for tensor, data in tensors:
            tensor.data = data


@contextmanager
def lent_module(module: nn.Module, dtype: torch.dtype, device: str) -> Iterator[None]:
    """`lent` for everything a module holds."""
    with lent(module.parameters(), dtype, module.buffers(), device):
        yield
