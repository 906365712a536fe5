"""The structure of a decoder model: its blocks, their linear layers, and which of them a recipe selects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .layers import SparseLowRankLinear
from .naming import matches, matches_any, near_names

_SUMMED_AT_ONCE = 1 << 22  # values


@dataclass(frozen=True)
class Block:
    """One decoder block. name: its dotted path in the model."""

    name: str
    module: nn.Module


@dataclass(frozen=True)
class LinearLayer:
    """A linear of a block. name: dotted path in the model; module: nn.Linear or GPT-2's transposed Conv1D."""

    name: str
    module: nn.Module

    @property
    def weight(self) -> Tensor:
        """[d_out, d_in] view of the weight, whichever way the module stores it."""
        weight = self.module.get_parameter("weight").detach()
        return weight.T if isinstance(self.module, Conv1D) else weight

    @property
    def bias(self) -> Tensor | None:
        bias = self.module.bias
        return bias.detach() if isinstance(bias, Tensor) else None

    @property
    def shape(self) -> tuple[int, int]:
        d_out, d_in = self.weight.shape
        return d_out, d_in


def find_blocks(model: nn.Module) -> list[Block]:
    """The decoder blocks: the outermost ModuleList whose linears hold the most weights.

    Lists inside another list (experts, for one) are part of its members. Raises ValueError if there is none.
    """
    best: tuple[int, str, nn.ModuleList] | None = None
    for name, members in _outermost_lists(model, ""):
        size = sum(layer.weight.numel() for block in members for layer in _linears(block, ""))
        if size > 0 and (best is None or size > best[0]):
            best = (size, name, members)
    if best is None:
        if any(isinstance(module, SparseLowRankLinear) for module in model.modules()):
            raise ValueError("this model is already compressed by sparlow; start from the dense model")
        raise ValueError(f"{type(model).__name__} has no list of blocks with linear layers; expected a decoder model")
    return [Block(f"{best[1]}.{index}", block) for index, block in enumerate(best[2])]


def linears_of(block: Block) -> list[LinearLayer]:
    """The linears of a block that may be compressed, in definition order; routers of experts are left out."""
    experts = {parameter.shape[0] for _, parameter in _stacked(block)}
    routers = experts | {1} if experts else set()
    return [layer for layer in _linears(block.module, block.name) if layer.shape[0] not in routers]


def left_dense(block: Block) -> list[str]:
    """Names of the weight matrices that are not compressible linears: stacked experts and their routers."""
    stacked = [name for name, _ in _stacked(block)]
    linears = {layer.name for layer in linears_of(block)}
    return stacked + [layer.name for layer in _linears(block.module, block.name) if layer.name not in linears]


def select_linears(
    blocks: Sequence[Block], include: Sequence[str], exclude: Sequence[str], others: Sequence[str] = ()
) -> list[list[LinearLayer]]:
    """Per block, the linears that match `include` (empty: all of them) and not `exclude`.

    Raises ValueError listing near names for a pattern of `include`, `exclude` or `others` that matches no
    linear of the blocks, and if nothing is left.
    """
    layers = [linears_of(block) for block in blocks]
    names = [layer.name for group in layers for layer in group]
    for pattern in (*include, *exclude, *others):
        if not any(matches(pattern, name) for name in names):
            raise ValueError(
                f"'{pattern}' matches none of the {len(names)} linear layers in the decoder blocks "
                f"(embeddings and the output head are never compressed); near names: "
                f"{near_names(pattern, names)}"
            )
    chosen = [
        [x for x in group if (not include or matches_any(include, x.name)) and not matches_any(exclude, x.name)]
        for group in layers
    ]
    if not any(chosen):
        raise ValueError(f"no layer is left to compress: 'exclude' removes all {len(names)} linear layers")
    return chosen


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` at the dotted path `name` of the model."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def non_finite_weights(layers: Sequence[LinearLayer]) -> str | None:
    """A sentence about the first layer whose weight or bias holds NaN or Inf, None if all are finite."""
    for layer in layers:
        for what, values in (("weight", layer.weight), ("bias", layer.bias)):
            if values is not None and (problem := describe_non_finite(values)):
                return f"{layer.name}: its {what} holds {problem}"
    return None


def describe_non_finite(values: Tensor) -> str | None:
    """'3 NaN and 1 Inf among 4096 values', or None if every value is finite."""
    # A sum is finite only if every term is; the exact count is needed only when something is wrong. In pieces, because
    # torch converts what it adds up to float64 first: an embedding would take four times its own memory.
    rows = values.reshape(1) if values.ndim == 0 else values
    at_once = max(1, _SUMMED_AT_ONCE * len(rows) // max(1, values.numel()))
    if all(bool(torch.isfinite(piece.sum(dtype=torch.float64))) for piece in torch.split(rows, at_once)):
        return None
    nans, infs = int(torch.isnan(values).sum()), int(torch.isinf(values).sum())
    return f"{nans} NaN and {infs} Inf among {values.numel()} values"


def _outermost_lists(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.ModuleList]]:
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(child, nn.ModuleList):
            yield path, child
        else:
            yield from _outermost_lists(child, path)


def _linears(block: nn.Module, prefix: str) -> list[LinearLayer]:
    return [
        LinearLayer(f"{prefix}.{name}", module)
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not isinstance(module, SparseLowRankLinear)
    ]


def _stacked(block: Block) -> list[tuple[str, Tensor]]:
    """Parameters that stack one matrix per expert: [experts, rows, columns]."""
    return [
        (f"{block.name}.{name}", parameter)
        for name, parameter in block.module.named_parameters()
        if parameter.ndim == 3 and min(parameter.shape[1:]) > 1
    ]
