"""The block in training: dense weights formed from float32 parameters, in place of its compressed layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparlow.decomposition import Signed
from sparlow.layers import SparseLowRankLinear
from sparlow.matching.terms import LowRankTerm, SignedTerm, SparseTerm, Term
from sparlow.models import Block, replace_module
from sparlow.precision import lent_module
from sparlow.signed import unpack_signs


class Part:
    """A tensor that the block computes with, and the terms whose sum it is."""

    def __init__(self, leaf: nn.Parameter, terms: list[Term]) -> None:
        self.leaf, self.terms = leaf, terms

    @property
    def masters(self) -> list[Tensor]:
        return [master for term in self.terms for master in term.masters]

    def form(self) -> None:
        """Bring `leaf` up to date."""
        total: Tensor | None = None
        for term in self.terms:
            total = term.added(total)
        if total is not None:
            self.leaf.data.copy_(total)

    def spread(self, gradient: Tensor | None) -> None:
        """Set the gradients of the masters from that of `leaf`; None if nothing reached it."""
        for term in self.terms:
            found = [None] * len(term.masters) if gradient is None else term.gradients(gradient)
            for master, value in zip(term.masters, found, strict=True):
                master.grad = value


class Student:
    """A block whose compressed layers are replaced, while `installed`, by dense ones that can be trained.

    Raises ValueError if the block has nothing to train.
    """

    def __init__(self, block: Block, *, norms: bool, dtype: torch.dtype, device: str) -> None:
        self._block, self._dtype, self._device = block, dtype, device
        self._layers = {
            name: module for name, module in block.module.named_modules() if isinstance(module, SparseLowRankLinear)
        }
        self._formed = {name: _Formed(layer, dtype, device) for name, layer in self._layers.items()}
        self._norms = _norms(block.module, self._layers) if norms else {}
        self.parts = [part for formed in self._formed.values() for part in formed.parts]
        for parameter in self._norms.values():
            values = parameter.detach().to(device)
            self.parts.append(Part(parameter, [SparseTerm(values, dtype)]))
        if self.count == 0:
            layers = ", ".join(self._layers) or "no compressed layer"
            raise ValueError(
                f"{block.name}: matching has nothing to train ({layers}: every entry of S is 0 and there is no "
                f"low-rank part); keep more weights, set a rank, or leave 'matching' out of the recipe"
            )

    @property
    def count(self) -> int:
        """How many numbers are trained."""
        return sum(term.count for part in self.parts for term in part.terms)

    @property
    def masters(self) -> list[Tensor]:
        """All trained tensors, float32."""
        return [master for part in self.parts for master in part.masters]

    @contextmanager
    def installed(self) -> Iterator[nn.Module]:
        """The block with its trainable layers in place; the compressed ones come back afterwards, unchanged."""
        module = self._block.module
        frozen = {id(p): p.requires_grad for p in module.parameters()}
        try:
            for name, formed in self._formed.items():
                replace_module(module, name, formed)
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            with lent_module(module, self._dtype, self._device):
                for part in self.parts:
                    part.leaf.requires_grad_(True)
                    part.form()
                yield module
        finally:
            for name, layer in self._layers.items():
                replace_module(module, name, layer)
            for parameter in module.parameters():
                parameter.requires_grad_(frozen.get(id(parameter), False))

    def layers(self) -> dict[str, SparseLowRankLinear]:
        """New layers with the trained values, rounded and packed as those they replace, by name in the model."""
        return {f"{self._block.name}.{name}": self._formed[name].packed(layer) for name, layer in self._layers.items()}

    def vectors(self) -> dict[str, Tensor]:
        """Trained weights and biases of normalisations, float32, by name in the model."""
        parts = self.parts[len(self.parts) - len(self._norms) :]
        names = (f"{self._block.name}.{name}" for name in self._norms)
        return {name: part.terms[0].values()[0] for name, part in zip(names, parts, strict=True)}


class _Formed(nn.Module):
    """A dense linear in the compute dtype whose weight is formed from terms."""

    def __init__(self, layer: SparseLowRankLinear, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layer.out_features, layer.in_features, dtype=dtype, device=device))
        self.bias: nn.Parameter | None = None
        layer.unpack()
        with lent_module(layer, layer.weight_packed.dtype, device):
            self._terms = _terms(layer, dtype)
            self.parts = [Part(self.weight, list(self._terms.values()))]
            if layer.bias is not None:
                self.bias = nn.Parameter(layer.bias.detach().to(dtype, copy=True))
                self.parts.append(Part(self.bias, [SparseTerm(layer.bias.detach(), dtype)]))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def packed(self, layer: SparseLowRankLinear) -> SparseLowRankLinear:
        """`layer` with the trained values."""
        (s,) = self._terms["sparse"].values()
        u, v = self._terms["low_rank"].values() if "low_rank" in self._terms else (None, None)
        bias = None if self.bias is None else self.parts[1].terms[0].values()[0]
        dtype = layer.weight_packed.dtype
        new = SparseLowRankLinear.from_decomposition(s, u, v, bias, layer.pattern, dtype, self._signed())
        return new.to(layer.weight_packed.device)

    def _signed(self) -> Signed | None:
        term = self._terms.get("signed")
        return Signed(term.signs, *term.values()) if isinstance(term, SignedTerm) else None


def _terms(layer: SparseLowRankLinear, dtype: torch.dtype) -> dict[str, Term]:
    """The addends of the layer's weight; `_Formed.packed` puts them together again."""
    terms: dict[str, Term] = {"sparse": SparseTerm(layer.sparse_dense().detach(), dtype)}
    if layer.rank:
        terms["low_rank"] = LowRankTerm(layer.low_rank_u.detach(), layer.low_rank_v.detach())
    if layer.sign_rank:
        signs = unpack_signs(layer.sign_bits.detach(), layer.in_features)
        terms["signed"] = SignedTerm(signs, layer.sign_u.detach(), layer.sign_v.detach())
    return terms


def _norms(block: nn.Module, compressed: dict[str, SparseLowRankLinear]) -> dict[str, nn.Parameter]:
    """Vectors of the block that belong to no linear layer: weights and biases of its normalisations."""
    found = {}
    for name, parameter in block.named_parameters():
        owner = block.get_submodule(name.rpartition(".")[0])
        if parameter.ndim == 1 and "norm" in type(owner).__name__.lower() and name not in compressed:
            found[name] = parameter
    return found
