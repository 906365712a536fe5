"""safetensors files: a strict header reader and a writer that streams, hashes and syncs.

The reader accepts what the reference implementation accepts, except duplicate keys, which it lets through.
Format: 8 bytes little-endian header length, JSON header, tensor bytes back to back.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_HEADER_BYTES = 100_000_000
MAX_HEADER_LEVELS = 128
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64,
    "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_TORCH_NAME = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One entry of a header. `begin` and `end` count bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.end - self.begin


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Names, types and places of a file's tensors, not their data. ValueError names file and fault."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > MAX_HEADER_BYTES or 8 + length > size:
            raise _fault(
                path,
                f"its header claims {length} bytes but the file has {size}: truncated or not safetensors",
            )
        raw = file.read(length)
    entries = _parse(path, raw)
    infos = {name: _entry(path, name, value, 8 + length) for name, value in entries.items() if name != "__metadata__"}
    _check_places(path, list(infos.values()), 8 + length, size)
    return infos


def _fault(path: Path, what: str) -> ValueError:
    return ValueError(f"shard {path.name}: {what} ({path})")


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            names = [name for name, _ in pairs]
            raise _fault(path, f"duplicate key {next(n for n in names if names.count(n) > 1)!r} in its header")
        return table

    try:
        entries = json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique, parse_int=_integer, parse_constant=_no_constant
        )
        _check_depth_and_strings(entries)
    except (UnicodeError, json.JSONDecodeError, RecursionError) as error:
        raise _fault(path, f"its header is not valid JSON: {error}") from error
    if not isinstance(entries, dict):
        raise _fault(path, "its header is not a JSON object")
    metadata = entries.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _fault(path, "__metadata__ must map names to strings")
    return entries


def _integer(text: str) -> int | float:
    """Whole numbers that a header may use; others become floats, which no field accepts."""
    return int(text) if len(text) < 20 and text != "-0" else float(text)


def _no_constant(text: str) -> None:
    raise json.JSONDecodeError("not a number of JSON", text, 0)


def _check_depth_and_strings(value: object) -> None:
    """json.loads takes what no other reader does: lone surrogates, and as many levels as the stack bears."""
    level = [value]
    for _ in range(MAX_HEADER_LEVELS + 1):
        for text in (item for item in level if isinstance(item, str)):
            text.encode("utf-8")
        nested = [item for item in level if isinstance(item, (dict, list))]
        level = [member for item in nested for member in _members(item)]
        if not nested:
            return
    raise RecursionError(f"nested more than {MAX_HEADER_LEVELS} levels deep")


def _members(value: dict[str, Any] | list[Any]) -> list[Any]:
    return [*value, *value.values()] if isinstance(value, dict) else value


def _naturals(value: object) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value):
        return tuple(value)
    return None


def _entry(path: Path, name: str, value: object, data_start: int) -> TensorInfo:
    if not isinstance(value, dict):
        raise _fault(path, f"entry {name!r} is not an object")
    shape, offsets = _naturals(value.get("shape")), _naturals(value.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        raise _fault(path, f"tensor {name!r} has a bad shape or data_offsets")
    dtype = value.get("dtype")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _fault(path, f"tensor {name!r} has the unknown dtype {dtype!r}")
    bits = _BITS[dtype]
    for extent in shape:
        bits *= extent
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise _fault(path, f"tensor {name!r} {dtype}{list(shape)} does not fill its bytes {list(offsets)}")
    return TensorInfo(name, dtype, shape, data_start + offsets[0], data_start + offsets[1])


def _check_places(path: Path, infos: list[TensorInfo], start: int, size: int) -> None:
    position = start
    for info in sorted(infos, key=lambda info: (info.begin, info.end)):
        if info.begin != position:
            raise _fault(
                path,
                f"tensor {info.name!r} begins at byte {info.begin} instead of {position}: hole or overlap",
            )
        position = info.end
    if position != size:
        raise _fault(path, f"its tensors end at byte {position} but the file has {size} bytes: truncated or altered")


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row-major; on the CPU without a copy if it is contiguous."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a file, sync it, return its sha256 in hex. OSError if the disk refuses."""
    # Wide elements first, as the reference writer does: every tensor is then aligned to its element size.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in ordered.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _dtype_name(name, tensor),
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    prefix = len(text).to_bytes(8, "little") + text
    with path.open("wb") as file:
        for chunk in itertools.chain([memoryview(prefix)], map(tensor_bytes, ordered.values())):
            file.write(chunk)
            digest.update(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _dtype_name(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in _TORCH_NAME:
        raise ValueError(f"tensor {name!r} has type {tensor.dtype}, which a checkpoint cannot hold")
    return _TORCH_NAME[tensor.dtype]
