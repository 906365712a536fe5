"""The compressed linear layer: y = x Sᵀ + (x Vᵀ) Uᵀ + x Tᵀ + bias, with S stored packed and T, if any, signed.

In evaluation mode on a GPU, layers in bfloat16 or float16 are packed (`sparlow.packable`): one buffer in the layout of
the kernels takes the place of the checkpoint's tensors, which a state dict gives back bit for bit. On the CPU, without
gradients, layers run from the checkpoint's tensors as they are (`sparlow.host`). Every other layer unpacks S to dense
before it multiplies, so that it is small on disk and in the state dict, and as large as a dense one while it runs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparlow import formats, host, ops
from sparlow.decomposition import Signed
from sparlow.layer_terms import check_shapes, rounded
from sparlow.packable import Packable
from sparlow.signed import check_signs, dense_signed, pack_signs
from sparlow.spec import LayerSpec

_STORED = ("weight_packed", "weight_meta", "low_rank_u", "low_rank_v")  # the order of `host_linear`


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _parameter(name: str, tensor: Tensor) -> nn.Parameter:
    return _frozen(tensor) if name.startswith("weight") else nn.Parameter(tensor)


class SparseLowRankLinear(Packable):
    """W [d_out, d_in] ~ S + U V; a subclass of `nn.Linear` with a `weight`, so that adapters attach.

    Parameters, names as in the state dict: `weight_packed` and `weight_meta` (layouts in `sparlow.formats`;
    `dense` has no meta), `low_rank_u` [d_out, rank], `low_rank_v` [rank, d_in], `bias` [d_out] or None. All
    but the uint8 meta share one floating-point dtype. Rank 0 keeps the two factors, with no elements. A signed
    term T adds `sign_bits` uint8, `sign_u` [d_out, sign rank] and `sign_v` [sign rank, d_in]; see `sparlow.signed`.

    A packed layer has no backward pass.

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
        check_shapes(s, u, v, bias, signed)
        terms = {"s": s, "u": u, "v": v} | ({} if bias is None else {"bias": bias})
        terms |= {} if signed is None else {"sign_u": signed.u, "sign_v": signed.v}
        stored = {name: rounded(name, term, dtype) for name, term in terms.items()}
        formats.check_pattern(stored["s"], pattern)
        format, values, meta = formats.pack(stored["s"], pattern)
        nnz = values.numel() if format == "bitmap" else None
        d_out, d_in = s.shape
        sign_rank = 0 if signed is None else signed.u.shape[1]
        spec = LayerSpec(format, pattern, u.shape[1], d_out, d_in, nnz, sign_rank)
        layer = cls(spec, bias is not None, dtype, "meta")
        layer.weight_packed = _frozen(values)
        layer.weight_meta = None if meta is None else _frozen(meta)
        layer.low_rank_u, layer.low_rank_v = nn.Parameter(stored["u"]), nn.Parameter(stored["v"])
        layer.bias = nn.Parameter(stored["bias"]) if bias is not None else None
        if signed is not None:
            layer.sign_u, layer.sign_v = nn.Parameter(stored["sign_u"]), nn.Parameter(stored["sign_v"])
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
        values = sum(math.prod(shape) for shape in self.spec.value_shapes().values())
        meta = sum(math.prod(shape) for shape in self.spec.meta_shapes().values())
        return values * self.weight_packed.element_size() + meta

    def stored(self) -> dict[str, Tensor]:
        """All tensors of the weights as in the checkpoint, by name."""
        return self.checkpoint_tensors()

    def sparse_dense(self) -> Tensor:
        """S [d_out, d_in] in the stored dtype."""
        return _sparse_dense(self.spec, self.stored())

    def dense_weight(self) -> Tensor:
        """The sum of all terms [d_out, d_in] in float32."""
        stored = self.stored()
        w = _sparse_dense(self.spec, stored).float() + stored["low_rank_u"].float() @ stored["low_rank_v"].float()
        return w + _signed_dense(stored) if self.spec.sign_rank else w

    def signed_dense(self) -> Tensor:
        """The signed term [d_out, d_in] in float32; only for layers that have one."""
        return _signed_dense(self.stored())

    def check_meta(self, name: str) -> None:
        """Raise ValueError naming the layer if `weight_meta` or `sign_bits` is not legal."""
        stored = self.stored()
        if self.spec.sign_rank:
            check_signs(stored["sign_bits"], self.spec.d_in, name)
        meta = stored.get("weight_meta")
        if meta is not None:
            formats.check_meta(self.spec.format, meta, self.spec.d_in, self.spec.nnz, name)

    def forward(self, input: Tensor) -> Tensor:
        """x [..., d_in] -> y [..., d_out] in the dtype of x. The gradient reaches all but S, if not packed."""
        if self.is_packed:
            return self._forward_packed(input)
        return self._forward_stored(input, self.stored())

    def _forward_packed(self, input: Tensor) -> Tensor:
        x = input
        if torch.is_autocast_enabled(input.device.type):
            x = input.to(torch.get_autocast_dtype(input.device.type))
        if x.dtype != self.weight_packed.dtype:
            return self._forward_stored(x, self.stored())
        return self.run_packed(x, input)

    def _forward_stored(self, input: Tensor, stored: dict[str, Tensor]) -> Tensor:
        if self.weight_packed.requires_grad and torch.is_grad_enabled() and self.spec.format != "dense":
            raise ops.no_packed_gradient()
        if self._runs_on_host(input, stored):
            tensors = (stored[name] for name in _STORED)
            y: Tensor = host.host_linear(input, *tensors, self.bias, self.spec.format)
            return y
        bias = None if self.bias is None else self.bias.to(input.dtype)
        y = functional.linear(input, _sparse_dense(self.spec, stored).to(input.dtype), bias)
        if self.spec.sign_rank:
            y = y + functional.linear(input, _signed_dense(stored).to(input.dtype))
        if self.spec.rank == 0:
            return y
        inner = functional.linear(input, stored["low_rank_v"].to(input.dtype))
        return y + functional.linear(inner, stored["low_rank_u"].to(input.dtype))

    def _runs_on_host(self, input: Tensor, stored: dict[str, Tensor]) -> bool:
        parameters = (self.low_rank_u, self.low_rank_v, self.bias)
        return self.spec.sign_rank == 0 and host.runs(
            input, stored["weight_packed"], self.spec.format, self.spec.d_out, parameters
        )

    def extra_repr(self) -> str:
        """One line for `print(model)`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, format={self.format}, "
            f"pattern={self.pattern}, rank={self.rank}, bias={self.bias is not None}"
            + (f", sign_rank={self.sign_rank}" if self.sign_rank else "")
        )


def _signed_dense(stored: dict[str, Tensor]) -> Tensor:
    return dense_signed(stored["sign_bits"], stored["sign_u"], stored["sign_v"])


def _sparse_dense(spec: LayerSpec, stored: dict[str, Tensor]) -> Tensor:
    if spec.format == "dense":
        return stored["weight_packed"]
    unpack = ops.nm24_unpack if spec.format == "nm24" else ops.bitmap_unpack
    s: Tensor = unpack(stored["weight_packed"], stored["weight_meta"], spec.d_in)
    return s
