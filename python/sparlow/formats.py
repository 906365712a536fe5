"""Packed layouts of the sparse term S [d_out, d_in] in plain torch: the reference for every faster path.

nm24    two of every four values along d_in. values [d_out, d_in/2]; meta uint8 [d_out, ceil(d_in/8)]: the low
        nibble is the first group of four, a nibble holds two ascending 2-bit positions, low bits first.
bitmap  any support. values [nnz] row by row; meta uint8 [d_out, ceil(d_in/8)]: bit i of byte b is column
        8 b + i.

Unused bits are zero and -0.0 is stored as +0.0, so equal matrices have equal bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparlow import _core, native


def _nibble_of_mask() -> list[int]:
    # A group with fewer than two non-zeros is filled up at its lowest free positions; 255: more than two.
    table = []
    for code in range(16):
        used = [i for i in range(4) if code >> i & 1]
        free = [i for i in range(4) if not code >> i & 1]
        first, second = sorted((used + free)[:2])
        table.append(first | second << 2 if len(used) <= 2 else 255)
    return table


_NIBBLE = _nibble_of_mask()
_LEGAL_NIBBLE = [(n & 3) < (n >> 2) for n in range(16)]


def nm24_pack(s: Tensor) -> tuple[Tensor, Tensor]:
    """S [d_out, d_in] with at most two non-zeros per group of four -> (values [d_out, d_in/2], meta uint8).

    Raises ValueError with row and column of the first group that has more.
    """
    rows, cols = s.shape
    if cols % 4:
        raise ValueError(f"2:4 packing needs d_in divisible by 4, got {cols}")
    groups = s.reshape(rows, cols // 4, 4)
    weight = torch.tensor([1, 2, 4, 8], dtype=torch.uint8, device=s.device)
    code = ((groups != 0).to(torch.uint8) * weight).sum(-1, dtype=torch.uint8)
    nibble = torch.tensor(_NIBBLE, dtype=torch.uint8, device=s.device)[code.int()]
    if bool((nibble == 255).any()):
        row, group = (int(i) for i in (nibble == 255).nonzero()[0])
        raise ValueError(
            f"not a 2:4 matrix: row {row}, columns {4 * group} to {4 * group + 3} keep more than two values"
        )
    position = torch.stack((nibble & 3, nibble >> 2), dim=-1).long()
    values = groups.gather(-1, position).reshape(rows, cols // 2)
    if nibble.shape[1] % 2:
        nibble = torch.nn.functional.pad(nibble, (0, 1))
    meta = nibble[:, 0::2] | nibble[:, 1::2] << 4
    return torch.where(values == 0, torch.zeros_like(values), values), meta


def nm24_unpack(values: Tensor, meta: Tensor, cols: int) -> Tensor:
    """Inverse of `nm24_pack`: S [d_out, cols] in the dtype of `values`."""
    rows = meta.shape[0]
    nibble = torch.stack((meta & 15, meta >> 4), dim=-1).reshape(rows, -1)[:, : cols // 4]
    position = torch.stack((nibble & 3, nibble >> 2), dim=-1).long()
    s = values.new_zeros(rows, cols // 4, 4)
    return s.scatter_(-1, position, values.reshape(rows, cols // 4, 2)).reshape(rows, cols)


def bitmap_pack(s: Tensor) -> tuple[Tensor, Tensor]:
    """S [d_out, d_in] -> (values [nnz], meta uint8 [d_out, ceil(d_in/8)]). Zeros are not stored."""
    rows, cols = s.shape
    mask = s != 0
    padded = torch.nn.functional.pad(mask, (0, -cols % 8)).to(torch.uint8).reshape(rows, -1, 8)
    weight = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8, device=s.device)
    return s[mask], (padded * weight).sum(-1, dtype=torch.uint8)


def bitmap_unpack(values: Tensor, meta: Tensor, cols: int) -> Tensor:
    """Inverse of `bitmap_pack`: S [d_out, cols] in the dtype of `values`."""
    s = values.new_zeros(meta.shape[0], cols)
    return s.masked_scatter_(bitmap_mask(meta, cols), values)


def bitmap_mask(meta: Tensor, cols: int) -> Tensor:
    """Support of S, bool [d_out, cols]."""
    shift = torch.arange(8, dtype=torch.uint8, device=meta.device)
    return (meta.unsqueeze(-1) >> shift & 1).reshape(meta.shape[0], -1)[:, :cols].bool()


def bitmap_most_in_tile(meta: Tensor) -> int:
    """The most values that any tile of 16 rows and 128 columns has; waits for the device."""
    count = torch.tensor([bin(b).count("1") for b in range(256)], dtype=torch.uint8, device=meta.device)
    counts = torch.nn.functional.pad(count[meta.int()], (0, -meta.shape[1] % 16, 0, -meta.shape[0] % 16))
    tiles = counts.view(counts.shape[0] // 16, 16, -1, 16)
    return int(tiles.sum((1, 3), dtype=torch.int32).max())


def check_meta(format: str, meta: Tensor, cols: int, nnz: int | None, name: str) -> None:
    """Raise ValueError naming layer `name` if `meta` is not legal for a matrix with `cols` columns."""
    if format == "nm24":
        _check_nm24(meta, cols, name)
    elif format == "bitmap":
        _check_bitmap(meta, cols, nnz, name)


def _check_nm24(meta: Tensor, cols: int, name: str) -> None:
    legal = torch.tensor([_LEGAL_NIBBLE[b & 15] and _LEGAL_NIBBLE[b >> 4] for b in range(256)], device=meta.device)
    bad = ~legal[meta.int()]
    if cols % 8:
        half = torch.tensor([_LEGAL_NIBBLE[b & 15] and b < 16 for b in range(256)], device=meta.device)
        bad[:, -1] = ~half[meta[:, -1].int()]
    if bool(bad.any()):
        row, byte = (int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"layer {name!r}: illegal 2:4 positions {int(meta[row, byte]):#04x} in "
            f"weight_meta[{row}, {byte}]; each group of four needs two distinct ascending positions"
        )


def _check_bitmap(meta: Tensor, cols: int, nnz: int | None, name: str) -> None:
    count = torch.tensor([bin(b).count("1") for b in range(256)], device=meta.device)
    found = int(count[meta.int()].sum())
    if found != nnz:
        raise ValueError(f"layer {name!r}: weight_meta marks {found} values but weight_packed holds {nnz}")
    if cols % 8 and bool((meta[:, -1] >> cols % 8).any()):
        raise ValueError(f"layer {name!r}: weight_meta marks values beyond column {cols - 1}")


def choose_format(pattern: str, d_out: int, d_in: int, nnz: int, element_size: int) -> str:
    """The format that stores S in the fewest bytes; `nm24` whenever the pattern is 2:4."""
    if pattern == "2:4":
        return "nm24"
    bitmap_bytes = nnz * element_size + d_out * ((d_in + 7) // 8)
    return "bitmap" if bitmap_bytes < d_out * d_in * element_size else "dense"


def pack(s: Tensor, pattern: str) -> tuple[str, Tensor, Tensor | None]:
    """(format, values, meta) of S [d_out, d_in]; meta is None for `dense`."""
    rows, cols = s.shape
    format = choose_format(pattern, rows, cols, int(torch.count_nonzero(s)), s.element_size())
    on_cpu = s.device.type == "cpu"
    if format == "nm24":
        return format, *(native.nm24_pack(s) if on_cpu else nm24_pack(s))
    if format == "bitmap":
        return format, *(native.bitmap_pack(s) if on_cpu else bitmap_pack(s))
    return format, torch.where(s == 0, torch.zeros_like(s), s), None


def check_pattern(s: Tensor, pattern: str) -> None:
    """Raise ValueError with the first place where S [d_out, d_in] keeps more than `pattern` allows."""
    rule, (rows, cols) = _core.Pattern(pattern), s.shape
    rule.check_shape(rows, cols, "sparse term")
    if rule.kind == "dense":
        return
    if rule.kind == "nm":
        counts, allowed, unit = (s.reshape(rows, -1, rule.m) != 0).sum(-1), rule.n, f"group of {rule.m}"
    elif rule.kind == "row":
        counts, allowed, unit = (s != 0).sum(-1), rule.kept(1, cols), "row"
    else:
        counts, allowed, unit = (s != 0).sum(), rule.kept(rows, cols), "matrix"
    over = counts > allowed
    if bool(over.any()):
        place = tuple(int(i) for i in over.nonzero()[0])
        raise ValueError(
            f"the sparse term does not follow {pattern!r}: {unit} {list(place)} keeps "
            f"{int(counts[place])} values, {allowed} are allowed"
        )
