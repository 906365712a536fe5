"""Layers in the layout of a GPU's kernels: packing, exact unpacking and running them by address.

One buffer holds all terms of a layer as `sparlow._core.LinearOps` lays them out; here it is a 1-D tensor of the layer's
own dtype. Up to four 2:4 layers that read the same x may share a buffer: the parts of a stack. `packed_ops` has the
torch operators.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparlow import _core
from sparlow.spec import LayerSpec

DTYPES = (torch.bfloat16, torch.float16)
NAMES = ("weight_packed", "weight_meta", "low_rank_u", "low_rank_v", "sign_bits", "sign_u", "sign_v")
ALL_PARTS = -1


@dataclass(frozen=True)
class Shape:
    """What kernels need to know of a layer. rows: of the parts of a stack, empty for a layer of its own."""

    format: str
    d_out: int
    d_in: int
    rank: int
    stored: int = 0
    sign_rank: int = 0
    rows: tuple[int, ...] = ()

    @classmethod
    def of(cls, spec: LayerSpec) -> Shape:
        return cls(spec.format, spec.d_out, spec.d_in, spec.rank, spec.nnz or 0, spec.sign_rank)

    def native(self, dtype: torch.dtype) -> _core.LinearShape:
        return _native(self, str(dtype).removeprefix("torch."))


@functools.lru_cache(maxsize=4096)
def _native(shape: Shape, dtype: str) -> _core.LinearShape:
    sizes = (shape.d_out, shape.d_in, shape.rank, dtype)
    return _core.LinearShape(*sizes, shape.format, shape.stored, shape.sign_rank, shape.rows)


@functools.cache
def _ops(index: int) -> _core.LinearOps | str:
    try:
        return _core.make_linear_ops(f"cuda:{index}")
    except RuntimeError as error:
        return str(error)


def ops_of(device: torch.device) -> _core.LinearOps:
    """The kernels of a device. RuntimeError where layers cannot run packed."""
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


def stream_of(device: torch.device) -> int:
    """The native handle of torch's current stream."""
    return int(torch.cuda.current_stream(device).cuda_stream)


def kernel_name(shape: Shape, dtype: torch.dtype, tokens: int, device: torch.device) -> str:
    """Which kernel runs such a layer for so many tokens. RuntimeError where none does."""
    return ops_of(device).kernel(shape.native(dtype), tokens)


def new_buffer(shape: Shape, like: Tensor) -> Tensor:
    """An empty packed buffer of the dtype and on the device of `like`."""
    bytes = ops_of(like.device).packed_bytes(shape.native(like.dtype))
    return like.new_empty(bytes // like.element_size())


def pack(shape: Shape, part: int, tensors: Mapping[str, Tensor], buffer: Tensor) -> None:
    """The checkpoint's tensors of a part (layouts in `sparlow.formats`), by name, into its place in the buffer."""
    given = {name: tensor.contiguous() for name, tensor in tensors.items()}
    rank = given["low_rank_u"].shape[1]
    native = shape.native(buffer.dtype)
    ops_of(buffer.device).pack(native, part, rank, _addresses(given), buffer.data_ptr(), stream_of(buffer.device))


def unpack(shape: Shape, part: int, buffer: Tensor, names: Sequence[str] = NAMES) -> dict[str, Tensor]:
    """The exact inverse of `pack`; factors have the rank of the shape. names: of the tensors that are wanted."""
    check_buffer(shape, buffer)
    rows = shape.rows[part] if shape.rows else shape.d_out
    values = (shape.stored,) if shape.format == "bitmap" else (rows, shape.d_in // 2)
    bits = (rows, (shape.d_in + 7) // 8)
    sizes = {"weight_packed": values, "weight_meta": bits, "low_rank_u": (rows, shape.rank)}
    sizes["low_rank_v"] = (shape.rank, shape.d_in)
    if shape.sign_rank:
        sizes |= {"sign_bits": bits, "sign_u": (rows, shape.sign_rank), "sign_v": (shape.sign_rank, shape.d_in)}
    bytes_ = ("weight_meta", "sign_bits")
    found = {
        name: torch.empty(size, dtype=torch.uint8 if name in bytes_ else buffer.dtype, device=buffer.device)
        for name, size in sizes.items()
        if name in names
    }
    native = shape.native(buffer.dtype)
    ops_of(buffer.device).unpack(native, part, buffer.data_ptr(), _addresses(found), stream_of(buffer.device))
    return found


def _addresses(tensors: Mapping[str, Tensor]) -> _core.LinearTensors:
    return _core.LinearTensors([tensors[name].data_ptr() if name in tensors else 0 for name in NAMES])


def check_buffer(shape: Shape, buffer: Tensor) -> None:
    """ValueError if the buffer cannot be that of the shape."""
    wanted = ops_of(buffer.device).packed_bytes(shape.native(buffer.dtype))
    found = buffer.numel() * buffer.element_size()
    if found != wanted or not buffer.is_contiguous():
        raise ValueError(f"the packed buffer of this layer has {wanted} bytes in a row, got {found}")
