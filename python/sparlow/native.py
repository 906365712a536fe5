"""Packing and unpacking of CPU tensors by libsparlow: the results of `sparlow.formats`, many times faster.

Every function checks shapes first: the library sees addresses only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparlow import _core


def nm24_pack(s: Tensor) -> tuple[Tensor, Tensor]:
    """S [d_out, d_in] -> (values [d_out, d_in/2], meta uint8 [d_out, ceil(d_in/8)])."""
    rows, cols = s.shape
    s = s.contiguous()
    values, meta = s.new_empty(rows, cols // 2), _empty_meta(rows, cols)
    _core.nm24_pack(s.data_ptr(), rows, cols, s.element_size(), values.data_ptr(), meta.data_ptr())
    return values, meta


def nm24_unpack(values: Tensor, meta: Tensor, cols: int) -> Tensor:
    """(values, meta) -> S [d_out, cols]."""
    rows = _check_meta(meta, cols)
    if values.shape != (rows, cols // 2):
        raise ValueError(f"2:4 values of {rows} x {cols} must be [{rows}, {cols // 2}], got {list(values.shape)}")
    values, meta, s = values.contiguous(), meta.contiguous(), values.new_empty(rows, cols)
    _core.nm24_unpack(values.data_ptr(), meta.data_ptr(), rows, cols, s.element_size(), s.data_ptr())
    return s


def bitmap_pack(s: Tensor) -> tuple[Tensor, Tensor]:
    """S [d_out, d_in] -> (values [nnz], meta uint8 [d_out, ceil(d_in/8)])."""
    rows, cols = s.shape
    s = s.contiguous()
    address, size = s.data_ptr(), s.element_size()
    values, meta = s.new_empty(_core.bitmap_count(address, rows, cols, size)), _empty_meta(rows, cols)
    _core.bitmap_pack(address, rows, cols, size, values.numel(), values.data_ptr(), meta.data_ptr())
    return values, meta


def bitmap_unpack(values: Tensor, meta: Tensor, cols: int) -> Tensor:
    """(values, meta) -> S [d_out, cols]; ValueError if the bits do not mark exactly the values."""
    rows = _check_meta(meta, cols)
    values, meta, s = values.contiguous(), meta.contiguous(), values.new_empty(rows, cols)
    size = s.element_size()
    _core.bitmap_unpack(values.data_ptr(), values.numel(), meta.data_ptr(), rows, cols, size, s.data_ptr())
    return s


def _empty_meta(rows: int, cols: int) -> Tensor:
    return torch.empty(rows, (cols + 7) // 8, dtype=torch.uint8)


def _check_meta(meta: Tensor, cols: int) -> int:
    if meta.dtype != torch.uint8 or meta.dim() != 2 or meta.shape[1] != (cols + 7) // 8:
        raise ValueError(f"meta of {cols} columns must be uint8 [d_out, {(cols + 7) // 8}], got {list(meta.shape)}")
    return meta.shape[0]
