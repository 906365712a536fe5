"""Gram matrices of the inputs of a block's linears, one for all the linears that read the same tensor."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .capture import StopForward, hooked
from .models import LinearLayer
from .solve import Gram


@dataclass
class GramGroup:
    """Linears that read one input, the Gram matrix of that input, and its drift [d_in, d_in] where it is measured."""

    layers: list[LinearLayer]
    gram: Gram
    drift: Tensor | None = None


class GramCollector:
    """Watches the inputs of `layers` while their block runs.

    Which linears share an input (q, k and v; gate and up) is seen in the first batch, by the identity of
    the tensors. From the second batch on the forward pass ends as soon as the last input is in: raises
    StopForward.
    """

    def __init__(self, layers: Sequence[LinearLayer], *, device: str) -> None:
        self._layers = list(layers)
        self._device = device
        self._groups: list[GramGroup] = []
        self._leaders: dict[str, Gram] = {}
        self._members: set[str] = set()
        self._first_batch: list[tuple[LinearLayer, Tensor]] | None = []
        self._last: str | None = None

    def attached(self) -> AbstractContextManager[None]:
        """Watch the layers inside this context."""
        return hooked([self._watch(layer) for layer in self._layers])

    def end_batch(self) -> None:
        """To be called after every batch: the first one decides the groups."""
        if self._first_batch is None:
            return
        events, self._first_batch = self._first_batch, None
        inputs: dict[str, list[int]] = {}
        for layer, x in events:
            inputs.setdefault(layer.name, []).append(id(x))
        by_inputs: dict[tuple[int, ...], list[LinearLayer]] = {}
        for layer in self._layers:
            if layer.name in inputs:
                by_inputs.setdefault(tuple(inputs[layer.name]), []).append(layer)
        for members in by_inputs.values():
            self._open(members)
        for layer, x in events:
            self._add(layer, x)
        if events and all(len(ids) == 1 for ids in inputs.values()):
            self._last = events[-1][0].name

    def groups(self) -> list[GramGroup]:
        """The groups, by their first layer. Raises ValueError for a layer that was never called."""
        for layer in self._layers:
            if layer.name not in self._members:
                raise ValueError(f"{layer.name} was not called on any calibration token; exclude it from the recipe")
        return self._groups

    def _watch(self, layer: LinearLayer) -> RemovableHandle:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            if self._first_batch is not None:
                self._first_batch.append((layer, x))
                return
            if layer.name not in self._members:
                self._open([layer])
            self._add(layer, x)
            if layer.name == self._last:
                raise StopForward

        return layer.module.register_forward_pre_hook(hook, with_kwargs=True)

    def _open(self, members: list[LinearLayer]) -> None:
        gram = Gram(members[0].shape[1], device=self._device, name=" = ".join(layer.name for layer in members))
        self._groups.append(GramGroup(members, gram))
        self._leaders[members[0].name] = gram
        self._members.update(layer.name for layer in members)

    def _add(self, layer: LinearLayer, x: Tensor) -> None:
        if (gram := self._leaders.get(layer.name)) is not None:
            gram.add(x)
