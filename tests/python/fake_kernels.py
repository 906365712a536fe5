"""Packed layers without a GPU: `LinearOps` in Python on the CPU, to test what happens around the kernels."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from sparlow import formats, packed, packed_ops
from sparlow.packed import ALL_PARTS, NAMES, Shape
from sparlow.signed import dense_signed

_BYTES = ("weight_meta", "sign_bits")
Native = tuple[Shape, torch.dtype]  # what stands for a `LinearShape`


def at(address: int, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The memory at an address as a tensor."""
    n = math.prod(size)
    if n == 0:
        return torch.empty(*size, dtype=dtype)
    memory = (ctypes.c_uint8 * (n * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).view(*size)


def sizes_of(shape: Shape, part: int) -> dict[str, tuple[int, ...]]:
    rows, bits = (shape.rows or (shape.d_out,))[part], (shape.d_in + 7) // 8
    values = (shape.stored,) if shape.format == "bitmap" else (rows, shape.d_in // 2)
    sizes = {"weight_packed": values, "weight_meta": (rows, bits), "low_rank_u": (rows, shape.rank)}
    sizes |= {"low_rank_v": (shape.rank, shape.d_in)}
    if shape.sign_rank:
        sizes |= {"sign_bits": (rows, bits), "sign_u": (rows, shape.sign_rank), "sign_v": (shape.sign_rank, shape.d_in)}
    return sizes


class FakeOps:
    """Packed is: all tensors of all parts one after another, factors padded to the shape's rank."""

    def __init__(self) -> None:
        self.launches: list[tuple[int, int]] = []  # (part, tokens)

    def places(self, shape: Shape, dtype: torch.dtype) -> Iterator[tuple[int, str, tuple[int, ...], int]]:
        offset = 0
        for part in range(len(shape.rows) or 1):
            for name, size in sizes_of(shape, part).items():
                yield part, name, size, offset
                offset += math.prod(size) * (1 if name in _BYTES else dtype.itemsize)
                offset += -offset % 16
        yield -1, "end", (), offset

    def packed_bytes(self, native: Native) -> int:
        return list(self.places(*native))[-1][3]

    def tensors(self, native: Native, packed_at: int, part: int) -> dict[str, Tensor]:
        dtype = native[1]
        return {
            name: at(packed_at + offset, size, torch.uint8 if name in _BYTES else dtype)
            for p, name, size, offset in self.places(*native)
            if p == part
        }

    def pack(self, native: Native, part: int, rank: int, found: list[int], to: int, _: int) -> None:
        for name, target in self.tensors(native, to, part).items():
            size = list(target.shape)
            if name.startswith("low_rank"):
                size[1 if name.endswith("u") else 0] = rank
            target.zero_()
            target[tuple(slice(n) for n in size)] = at(found[NAMES.index(name)], size, target.dtype)

    def unpack(self, native: Native, part: int, packed_at: int, to: list[int], _: int) -> None:
        for name, source in self.tensors(native, packed_at, part).items():
            if to[NAMES.index(name)]:
                at(to[NAMES.index(name)], source.shape, source.dtype).copy_(source)

    def expand(self, native: Native, packed_at: int, w: int, _: int) -> None:
        shape, dtype = native
        at(w, (shape.d_out, shape.d_in), dtype).copy_(self.dense(native, packed_at, 0)[0])

    def dense(self, native: Native, packed_at: int, part: int) -> tuple[Tensor, Tensor]:
        shape, t = native[0], self.tensors(native, packed_at, part)
        unpack = formats.nm24_unpack if shape.format == "nm24" else formats.bitmap_unpack
        s = unpack(t["weight_packed"], t["weight_meta"], shape.d_in).double()
        if shape.sign_rank:
            s = s + dense_signed(t["sign_bits"], t["sign_u"], t["sign_v"])
        return s, t["low_rank_u"].double() @ t["low_rank_v"].double()

    def forward(
        self,
        native: Native,
        part: int,
        packed_at: int,
        bias: int,
        x: int,
        y: int,
        tokens: int,
        _: int,
    ) -> None:
        (shape, dtype), rows = native, native[0].rows or (native[0].d_out,)
        self.launches.append((part, tokens))
        parts = range(len(rows)) if part == ALL_PARTS else (part,)
        w = torch.cat([sum(self.dense(native, packed_at, p)) for p in parts])
        found = at(x, (tokens, shape.d_in), dtype).double() @ w.T
        if bias:
            found = found + at(bias, (w.shape[0],), dtype)
        at(y, (tokens, w.shape[0]), dtype).copy_(found)

    def most_tokens(self, native: Native) -> int:
        return 32 if native[0].sign_rank or native[0].format == "bitmap" else 1 << 40

    def kernel(self, native: Native, tokens: int) -> str:
        del native, tokens
        return "fake"


@contextmanager
def fake_kernels() -> Iterator[FakeOps]:
    """Layers on the CPU are packed, and run, by a `FakeOps`."""
    ops, library = FakeOps(), torch.library.Library("sparlow", "IMPL")
    for name, (_, run, _) in packed_ops._OPERATORS.items():
        library.impl(name, run, "CPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "ops_of", lambda _: ops)
        patch.setattr(packed, "why_not", lambda _: None)
        patch.setattr(packed, "stream_of", lambda _: 0)
        patch.setattr(packed, "_addresses", lambda found: [found[n].data_ptr() if n in found else 0 for n in NAMES])
        patch.setattr(Shape, "native", lambda shape, dtype: (shape, dtype))
        yield ops
    library._destroy()
