"""What a compressed layer is made of: the entry of one layer in `quantization_config["layers"]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORMATS = ("nm24", "bitmap", "dense")
PACKED_DTYPES = {"BF16": 2, "F16": 2, "F32": 4}  # safetensors name -> bytes per element


@dataclass(frozen=True)
class LayerSpec:
    """Shapes of a layer W ~ S + U V + signed term, enough to create it empty before its tensors are read.

    format   how S is stored: "nm24", "bitmap" or "dense"
    pattern  what the solver was allowed to keep, e.g. "2:4" or "0.5@row"
    rank     columns of U = rows of V; 0 means no low-rank term
    nnz      stored values of S; only `bitmap` depends on it
    sign_rank  rank of the factor under the signs; 0 means no signed term
    """

    format: str
    pattern: str
    rank: int
    d_out: int
    d_in: int
    nnz: int | None = None
    sign_rank: int = 0

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"unknown format {self.format!r}; this version knows {', '.join(FORMATS)}")
        for name in ("rank", "sign_rank", "d_out", "d_in"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < (0 if "rank" in name else 1):
                kind = "non-negative" if "rank" in name else "positive"
                raise ValueError(f"{name} must be a {kind} integer, got {value!r}")
        if self.format == "nm24" and self.d_in % 4:
            raise ValueError(f"nm24 needs d_in divisible by 4, got {self.d_in}")
        if (self.format == "bitmap") != (self.nnz is not None):
            raise ValueError(
                f"nnz belongs to the bitmap format and to no other, got {self.format!r} with nnz={self.nnz!r}"
            )
        if self.nnz is not None and not 0 <= self.nnz <= self.d_out * self.d_in:
            raise ValueError(f"nnz={self.nnz} is impossible for a {self.d_out} x {self.d_in} layer")

    @classmethod
    def from_dict(cls, name: str, entry: Mapping[str, Any]) -> LayerSpec:
        """Read the entry of layer `name`; ValueError names the layer and the key that is wrong."""
        needed = {"format", "pattern", "rank", "shape"}
        unknown, missing = set(entry) - needed - {"nnz", "sign_rank"}, needed - set(entry)
        if unknown or missing:
            raise ValueError(
                f"layer table entry {name!r}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}"
            )
        shape = entry["shape"]
        if not isinstance(shape, (list, tuple)) or len(shape) != 2:
            raise ValueError(f"layer table entry {name!r}: shape must be [d_out, d_in], got {shape!r}")
        try:
            more = (entry.get("nnz"), entry.get("sign_rank", 0))
            return cls(entry["format"], str(entry["pattern"]), entry["rank"], shape[0], shape[1], *more)
        except (ValueError, TypeError) as error:
            raise ValueError(f"layer table entry {name!r}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """JSON form; `from_dict` reads it back."""
        entry: dict[str, Any] = {"format": self.format, "pattern": self.pattern, "rank": self.rank}
        entry["shape"] = [self.d_out, self.d_in]
        optional = {"nnz": self.nnz} if self.nnz is not None else {}
        return entry | optional | ({"sign_rank": self.sign_rank} if self.sign_rank else {})

    def value_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors in the layer's floating-point dtype (bias excluded)."""
        packed: tuple[int, ...] = (self.d_out, self.d_in)
        if self.format == "nm24":
            packed = (self.d_out, self.d_in // 2)
        elif self.nnz is not None:
            packed = (self.nnz,)
        shapes = {
            "weight_packed": packed,
            "low_rank_u": (self.d_out, self.rank),
            "low_rank_v": (self.rank, self.d_in),
        }
        if self.sign_rank:
            shapes |= {"sign_u": (self.d_out, self.sign_rank), "sign_v": (self.sign_rank, self.d_in)}
        return shapes

    def meta_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the uint8 tensors: positions of S unless it is `dense`, signs if there are any."""
        names = ["weight_meta"] * (self.format != "dense") + ["sign_bits"] * (self.sign_rank > 0)
        return dict.fromkeys(names, (self.d_out, (self.d_in + 7) // 8))
