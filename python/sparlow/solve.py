"""Decomposition of single weight matrices: the torch-facing side of the C++ solvers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from sparlow import _core
from sparlow.decomposition import Decomposition as Decomposition
from sparlow.decomposition import Report as Report
from sparlow.decomposition import Signed as Signed

OptionValue = float | int | bool | str
_ACTIVATION_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True)
class Damping:
    """``H + diagonal * diag(H) + mean * mean(diag(H)) * I`` with H the Gram matrix. Both are fractions >= 0."""

    diagonal: float = 0.005
    mean: float = 0.005


@dataclass(frozen=True)
class OptionInfo:
    """An option of a method; a choice has names to choose from, and its default is one of them."""

    name: str
    kind: Literal["integer", "real", "flag", "choice"]
    default: float | str
    low: float
    high: float
    doc: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodInfo:
    """A row of the solver registry."""

    name: str
    title: str
    citation: str
    needs_gram: Literal["none", "diagonal", "full"]
    low_rank: bool
    signed_term: bool
    options: dict[str, OptionInfo]


@cache
def methods() -> tuple[MethodInfo, ...]:
    """All methods of this build, in the order of the registry."""
    rows = []
    for row in _core.methods():
        options = {option["name"]: OptionInfo(**option) for option in row.pop("options")}
        rows.append(MethodInfo(**row, options=options))
    return tuple(rows)


def method_info(name: str) -> MethodInfo:
    """The registry row of one method. ValueError suggests the nearest name."""
    _core.resolve_options(name, {})
    return next(method for method in methods() if method.name == name)


def check_options(method: str, options: Mapping[str, OptionValue]) -> dict[str, float]:
    """All options of a method with defaults filled in. ValueError names an unknown option or a bad value."""
    return dict(_core.resolve_options(method, _option_numbers(method, options)))


def _option_numbers(method: str, options: Mapping[str, OptionValue]) -> dict[str, float]:
    """Choices as the core counts them, and numbers as they are."""
    known = method_info(method).options
    names = {name for name, value in options.items() if isinstance(value, str)}
    names |= {name for name, option in known.items() if name in options and option.kind == "choice"}
    return {
        name: _core.option_value(method, name, str(value)) if name in names else float(value)
        for name, value in options.items()
    }


def sign_rank(method: str, options: Mapping[str, OptionValue]) -> int:
    """Rank of the factor under the signs that a method returns; 0 for methods without a signed term."""
    return int(check_options(method, options)["sign_rank"]) if method_info(method).signed_term else 0


def parse_pattern(text: str) -> _core.Pattern:
    """``'2:4'`` (keep n of every m inputs), ``'0.5@row'``, ``'0.5@matrix'`` or ``'dense'``. ValueError otherwise."""
    return _core.Pattern(text)


def backend_for(device: torch.device | str) -> _core.Backend:
    """The backend that works on tensors of ``device``, on torch's current stream there."""
    device = torch.device(device)
    if device.type == "cuda":
        stream = torch.cuda.current_stream(device)
        return _cuda_backend(stream.device_index, stream.cuda_stream, threading.get_ident())
    return _core.make_backend(device.type)


@lru_cache(maxsize=16)
def _cuda_backend(index: int, stream: int, _thread: int) -> _core.Backend:
    """Library handles take longer to make than a small layer to solve; one backend serves one thread."""
    return _core.make_backend(f"cuda:{index}", stream)


def view_of(x: Tensor) -> _core.View:
    """Of a matrix of floats or, for masks, of bytes."""
    if x.stride(1) != 1 and x.shape[1] > 1:
        raise ValueError(f"a {tuple(x.shape)} tensor has stride {x.stride(1)} within a row, not 1")
    return _core.View(x.data_ptr(), x.shape[0], x.shape[1], max(x.stride(0), x.shape[1]))


class Gram:
    """Accumulates XᵀX of one input stream in f32, X being all its tokens.

    Args:
        d_in: features of a token.
        device: where the activations live.
        name: what errors call the stream.
    """

    def __init__(self, d_in: int, *, device: torch.device | str = "cpu", name: str = "input") -> None:
        self.name = name
        self.tokens = 0
        self._backend = backend_for(device)
        self._upper = torch.zeros(d_in, d_in, dtype=torch.float32, device=device)

    def add(self, x: Tensor) -> None:
        """Adds tokens ``x`` [..., d_in] in float32, bfloat16 or float16. ValueError when one is NaN or Inf."""
        d_in = self._upper.shape[0]
        if x.shape[-1] != d_in or x.dtype not in _ACTIVATION_DTYPES:
            raise ValueError(
                f"{self.name}: expected float32, bfloat16 or float16 activations with {d_in} features, "
                f"got {tuple(x.shape)} of {x.dtype}"
            )
        rows = x.detach().reshape(-1, d_in).contiguous()
        finite = torch.isfinite(rows).all()
        if not finite:
            count = int((~torch.isfinite(rows)).sum())
            raise ValueError(
                f"{self.name}: {count} of {rows.numel()} input activations are NaN or Inf; "
                "run the model in a wider dtype or drop the calibration text that causes it"
            )
        self._backend.gram_update(view_of(rows), _ACTIVATION_DTYPES[rows.dtype], view_of(self._upper))
        self.tokens += rows.shape[0]

    def matrix(self) -> Tensor:
        """XᵀX [d_in, d_in], float32."""
        full = self._upper.clone()
        self._backend.symmetrise(view_of(full))
        return full


def _gram_matrix(gram: Gram | Tensor | None) -> Tensor | None:
    if isinstance(gram, Gram):
        if gram.tokens == 0:
            raise ValueError(f"{gram.name}: no calibration token reached this input")
        return gram.matrix()
    if gram is None:
        return None
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"the Gram matrix has shape {tuple(gram.shape)}; expected [d_in, d_in]")
    return gram.detach().to(torch.float32).contiguous()


def decompose(
    weights: Sequence[Tensor],
    gram: Gram | Tensor | None,
    *,
    method: str,
    pattern: str,
    ranks: Sequence[int],
    damping: Damping | None = None,
    options: Mapping[str, OptionValue] | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> list[Decomposition]:
    """Writes each weight as sparse + low rank, W ≈ S + U V, or with a signed term more: see :class:`Decomposition`.

    Args:
        weights: matrices [d_out, d_in] on one device that read the same input; they share the factored Gram
            matrix and one penalty, which is faster than solving them one by one.
        gram: XᵀX [d_in, d_in] of that input; may be None for methods that need none.
        method: a name of :func:`methods`.
        pattern: see :func:`parse_pattern`.
        ranks: rank of U V for each weight; 0 for none.
        damping: of the Gram matrix; default 0.005 and 0.005.
        options: of the method; see :func:`methods`.
        seed: of the random start of the low-rank part. Same seed, same machine: same bits.
        names: what errors call the weights.

    Raises:
        ValueError: unknown method or option, shape that does not carry the pattern, rank out of range,
            non-finite weight, Gram matrix that is not XᵀX.
    """
    names = names or [f"weight {i}" for i in range(len(weights))]
    damping = damping or Damping()
    originals = [weight.detach().to(torch.float32).contiguous() for weight in weights]
    if not originals or len(ranks) != len(originals) or len(names) != len(originals):
        raise ValueError(f"{len(originals)} weights, {len(ranks)} ranks and {len(names)} names do not match")
    matrix = _gram_matrix(gram)
    backend = backend_for(originals[0].device)
    signed_rank = sign_rank(method, options or {})
    pairs = [_target(name, w, rank, signed_rank) for name, w, rank in zip(names, originals, ranks, strict=True)]
    reports = _core.solve(
        backend,
        method,
        [target for _, target in pairs],
        pattern,
        None if matrix is None else view_of(matrix),
        (damping.diagonal, damping.mean),
        _option_numbers(method, options or {}),
        seed,
    )
    return [
        Decomposition(s, u, v, Report(rank=rank, **report.as_dict()), signed)
        for ((s, u, v, signed), _), rank, report in zip(pairs, ranks, reports, strict=True)
    ]


_Outputs = tuple[Tensor, Tensor, Tensor, Signed | None]


def _target(name: str, w: Tensor, rank: int, signed_rank: int) -> tuple[_Outputs, _core.Target]:
    """Zeroed s, u, v and signed term for one weight, and what the core is given to fill them."""
    if w.ndim != 2:
        raise ValueError(f"{name}: expected a matrix, got a tensor of shape {tuple(w.shape)}")
    kept_rank = max(0, rank)  # a negative rank is refused by the core, with the layer's name
    s, u, v = torch.zeros_like(w), w.new_zeros(w.shape[0], kept_rank), w.new_zeros(kept_rank, w.shape[1])
    signed = _empty_signed(w, signed_rank)
    views = [] if signed is None else [view_of(signed.signs), view_of(signed.u), view_of(signed.v)]
    return (s, u, v, signed), _core.Target(name, view_of(w), view_of(s), view_of(u), view_of(v), rank, *views)


def _empty_signed(w: Tensor, rank: int) -> Signed | None:
    if rank == 0:
        return None
    signs = torch.zeros(w.shape, dtype=torch.bool, device=w.device)
    return Signed(signs, w.new_zeros(w.shape[0], rank), w.new_zeros(rank, w.shape[1]))


def relative_loss(w: Tensor, w_hat: Tensor, gram: Gram | Tensor) -> float:
    """tr(E G Eᵀ) / tr(W G Wᵀ) with E = W - Ŵ and G the undamped Gram matrix, products in f64."""
    matrix = _gram_matrix(gram)
    assert matrix is not None
    dense, approximate = (x.detach().to(torch.float32).contiguous() for x in (w, w_hat))
    value = _core.relative_loss(backend_for(dense.device), view_of(dense), view_of(approximate), view_of(matrix))
    return float(value)


def retarget(
    weights: Sequence[Tensor], gram: Gram | Tensor, drift: Tensor, *, damping: Damping, share: float
) -> list[Tensor]:
    """The weights that, on drifted inputs, come closest to what `weights` made of the inputs as they were.

    weights [d_out, d_in]; gram YᵀY and drift (X - Y)ᵀY [d_in, d_in], X the inputs as they were and Y as they are.
    share: 1 for the outputs on X, 0 for those on Y, which the weights make already. Returns float32 tensors.
    ValueError for shapes that do not fit, and for a matrix that is not YᵀY.
    """
    matrix = _gram_matrix(gram)
    assert matrix is not None
    originals = [weight.detach().to(torch.float32).contiguous() for weight in weights]
    found, moved = [torch.empty_like(weight) for weight in originals], drift.detach().to(torch.float32).contiguous()
    _core.retarget(
        backend_for(matrix.device),
        [view_of(weight) for weight in originals],
        view_of(matrix),
        view_of(moved),
        (damping.diagonal, damping.mean),
        share,
        [view_of(weight) for weight in found],
    )
    return found


def estimate(
    method: str, shapes: Sequence[tuple[int, int, int]], pattern: str, options: Mapping[str, OptionValue] | None = None
) -> dict[str, Any]:
    """Memory and work of one :func:`decompose` call at its iteration limit, found by a run without arithmetic.

    Args:
        shapes: (d_out, d_in, rank) of each weight; all share d_in.

    Returns:
        ``peak_bytes`` (weights, Gram matrix and workspace) and ``flops``.
    """
    return dict(_core.estimate(method, list(shapes), pattern, _option_numbers(method, options or {})))
