"""The compressed linear layer: y = x Sᵀ + (x Vᵀ) Uᵀ + x Tᵀ + bias, with S stored packed and T, if any, signed.

The forward pass unpacks S to dense before it multiplies, so a layer is small on disk and in the state dict,
and as large as a dense one while it runs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparlow import formats, ops
from sparlow.decomposition import Signed
from sparlow.signed import check_signs, dense_signed, pack_signs
from sparlow.spec import LayerSpec


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _parameter(name: str, tensor: Tensor) -> nn.Parameter:
    return _frozen(tensor) if name.startswith("weight") else nn.Parameter(tensor)


class SparseLowRankLinear(nn.Linear):
    """W [d_out, d_in] ~ S + U V; a subclass of `nn.Linear` with a `weight`, so that adapters attach.

    Parameters, names as in the state dict: `weight_packed` and `weight_meta` (layouts in `sparlow.formats`;
    `dense` has no meta), `low_rank_u` [d_out, rank], `low_rank_v` [rank, d_in], `bias` [d_out] or None. All
    but the uint8 meta share one floating-point dtype. Rank 0 keeps the two factors, with no elements. A signed
    term T adds `sign_bits` uint8, `sign_u` [d_out, sign rank] and `sign_v` [sign rank, d_in]; see `sparlow.signed`.

    `merge_and_unload` of an adapter into this layer is not possible: packed weights have another shape.
    """

    weight_packed: nn.Parameter
    weight_meta: nn.Parameter | None
    low_rank_u: nn.Parameter
    low_rank_v: nn.Parameter
    sign_bits: nn.Parameter
    sign_u: nn.Parameter
    sign_v: nn.Parameter
    bias: nn.Parameter | None  # type: ignore[assignment]

    def __init__(
        self,
        spec: LayerSpec,
        bias: bool = True,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str | None = None,
    ) -> None:
        """An uninitialised layer of the given shapes, to be filled from a checkpoint."""
        nn.Module.__init__(self)
        self.spec = spec
        self.in_features, self.out_features = spec.d_in, spec.d_out
        self.register_parameter("weight_meta", None)
        for name, shape in spec.value_shapes().items():
            self.register_parameter(name, _parameter(name, torch.empty(shape, dtype=dtype, device=device)))
        for name, shape in spec.meta_shapes().items():
            self.register_parameter(name, _frozen(torch.empty(shape, dtype=torch.uint8, device=device)))
        empty_bias = nn.Parameter(torch.empty(spec.d_out, dtype=dtype, device=device)) if bias else None
        self.register_parameter("bias", empty_bias)

    @classmethod
    def from_decomposition(
        cls,
        s: Tensor,
        u: Tensor | None,
        v: Tensor | None,
        bias: Tensor | None,
        pattern: str,
        dtype: torch.dtype,
        signed: Signed | None = None,
    ) -> SparseLowRankLinear:
        """Round to `dtype`, choose the smallest format, pack.

        s [d_out, d_in] with exact zeros off its support, u [d_out, r], v [r, d_in] (both None: no low-rank
        term), bias [d_out] or None, signed of the shape of s. Raises ValueError if s does not follow `pattern`,
        if shapes disagree, or if a value is not finite in `dtype`.
        """
        u = s.new_zeros(s.shape[0], 0) if u is None else u
        v = s.new_zeros(0, s.shape[1]) if v is None else v
        _check_shapes(s, u, v, bias, signed)
        terms = {"s": s, "u": u, "v": v} | ({} if bias is None else {"bias": bias})
        terms |= {} if signed is None else {"sign_u": signed.u, "sign_v": signed.v}
        rounded = {name: _round(name, term, dtype) for name, term in terms.items()}
        formats.check_pattern(rounded["s"], pattern)
        format, values, meta = formats.pack(rounded["s"], pattern)
        nnz = values.numel() if format == "bitmap" else None
        d_out, d_in = s.shape
        sign_rank = 0 if signed is None else signed.u.shape[1]
        spec = LayerSpec(format, pattern, u.shape[1], d_out, d_in, nnz, sign_rank)
        layer = cls(spec, bias is not None, dtype, "meta")
        layer.weight_packed = _frozen(values)
        layer.weight_meta = None if meta is None else _frozen(meta)
        layer.low_rank_u, layer.low_rank_v = nn.Parameter(rounded["u"]), nn.Parameter(rounded["v"])
        layer.bias = nn.Parameter(rounded["bias"]) if bias is not None else None
        if signed is not None:
            layer.sign_u, layer.sign_v = nn.Parameter(rounded["sign_u"]), nn.Parameter(rounded["sign_v"])
            layer.sign_bits = _frozen(pack_signs(signed.signs))
        return layer

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The packed values: right device and dtype, not the shape of the matrix. See `dense_weight`."""
        return self.weight_packed

    @property
    def format(self) -> str:
        """How S is stored: "nm24", "bitmap" or "dense"."""
        return self.spec.format

    @property
    def pattern(self) -> str:
        """What the solver was allowed to keep, e.g. "2:4"."""
        return self.spec.pattern

    @property
    def rank(self) -> int:
        """Columns of U; 0 means no low-rank term."""
        return self.spec.rank

    @property
    def sign_rank(self) -> int:
        """Rank of the factor under the signs; 0 means no signed term."""
        return self.spec.sign_rank

    @property
    def stored_bytes(self) -> int:
        """Bytes of all terms as stored; the bias, equal in a dense layer, is not counted."""
        return sum(p.numel() * p.element_size() for name, p in self.named_parameters(recurse=False) if name != "bias")

    def sparse_dense(self) -> Tensor:
        """S [d_out, d_in] in the stored dtype."""
        if self.spec.format == "dense":
            return self.weight_packed
        unpack = ops.nm24_unpack if self.spec.format == "nm24" else ops.bitmap_unpack
        s: Tensor = unpack(self.weight_packed, self.weight_meta, self.spec.d_in)
        return s

    def dense_weight(self) -> Tensor:
        """The sum of all terms [d_out, d_in] in float32."""
        w = self.sparse_dense().float() + self.low_rank_u.float() @ self.low_rank_v.float()
        return w + self.signed_dense() if self.spec.sign_rank else w

    def signed_dense(self) -> Tensor:
        """The signed term [d_out, d_in] in float32; only for layers that have one."""
        return dense_signed(self.sign_bits, self.sign_u, self.sign_v)

    def check_meta(self, name: str) -> None:
        """Raise ValueError naming the layer if `weight_meta` or `sign_bits` is not legal."""
        if self.spec.sign_rank:
            check_signs(self.sign_bits, self.spec.d_in, name)
        if self.weight_meta is not None:
            formats.check_meta(self.spec.format, self.weight_meta, self.spec.d_in, self.spec.nnz, name)

    def forward(self, input: Tensor) -> Tensor:
        """x [..., d_in] -> y [..., d_out] in the dtype of x. The gradient reaches all but S."""
        if self.weight_packed.requires_grad and torch.is_grad_enabled() and self.spec.format != "dense":
            raise ops.no_packed_gradient()
        bias = None if self.bias is None else self.bias.to(input.dtype)
        y = functional.linear(input, self.sparse_dense().to(input.dtype), bias)
        if self.spec.sign_rank:
            y = y + functional.linear(input, self.signed_dense().to(input.dtype))
        if self.spec.rank == 0:
            return y
        inner = functional.linear(input, self.low_rank_v.to(input.dtype))
        return y + functional.linear(inner, self.low_rank_u.to(input.dtype))

    def extra_repr(self) -> str:
        """One line for `print(model)`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, format={self.format}, "
            f"pattern={self.pattern}, rank={self.rank}, bias={self.bias is not None}"
            + (f", sign_rank={self.sign_rank}" if self.sign_rank else "")
        )


def _check_shapes(s: Tensor, u: Tensor, v: Tensor, bias: Tensor | None, signed: Signed | None) -> None:
    shapes = f"s {list(s.shape)}, u {list(u.shape)}, v {list(v.shape)}"
    if s.dim() != 2 or u.dim() != 2 or v.dim() != 2:
        raise ValueError(f"s, u and v must be matrices, got {shapes}")
    if u.shape[0] != s.shape[0] or v.shape[1] != s.shape[1] or u.shape[1] != v.shape[0]:
        raise ValueError(f"shapes do not fit s + u v: {shapes}")
    if bias is not None and bias.shape != (s.shape[0],):
        raise ValueError(f"bias must have {s.shape[0]} elements, got {list(bias.shape)}")
    if signed is not None:
        parts = [list(x.shape) for x in (signed.signs, signed.u, signed.v)]
        rank = signed.u.shape[-1]
        if parts != [list(s.shape), [s.shape[0], rank], [rank, s.shape[1]]]:
            raise ValueError(f"shapes of signs, u and v {parts} do not fit a signed term of s {list(s.shape)}")


def _round(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(rounded).all()):
        largest = float(tensor.detach().abs().max())
        hint = "store it as bfloat16 or float32" if dtype == torch.float16 else "the solver returned it so"
        raise ValueError(f"{name} is not finite in {dtype} (largest magnitude {largest:.4g}); {hint}")
    return rounded
