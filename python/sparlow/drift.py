"""How far the inputs of a block's layers have drifted from those that the dense model has: what `repair` goes by."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .capture import hooked
from .gram_groups import GramGroup
from .models import LinearLayer
from .stream import Stream


class DenseStream:
    """The dense model's own hidden states, beside a stream that passes compressed blocks."""

    def __init__(self, stream: Stream) -> None:
        """stream: still before the first block, where both are the same."""
        self._stream = stream
        self._hidden = [hidden.clone() for hidden in stream.hidden]

    def advance(self, index: int) -> None:
        """Pass block `index`, which must still be dense."""
        for position, output in enumerate(self._stream.outputs(index, self._hidden)):
            self._hidden[position] = output

    def measure(self, index: int, groups: Sequence[GramGroup]) -> None:
        """Pass block `index`, which must still be dense, and give every group its drift (X - Y)ᵀY.

        X are the inputs here, Y those on the stream. A group that sees only some of the tokens (experts) stays without.
        """
        seen = _Inputs([group.layers[0] for group in groups])
        whole = set(range(len(groups)))
        with seen.attached():
            for position, (_, output) in enumerate(self._stream.paired(index, self._hidden)):
                self._hidden[position] = output
                for k, group in enumerate(groups):
                    pair = seen.take(group.layers[0].name)
                    if len(pair) == 2 and pair[0].shape == pair[1].shape:
                        _add(group, *pair)
                    else:
                        whole.discard(k)
        for k, group in enumerate(groups):
            if k not in whole:
                group.drift = None


def _add(group: GramGroup, drifted: Tensor, dense: Tensor) -> None:
    y = drifted.reshape(-1, drifted.shape[-1]).to(torch.float32)
    x = dense.reshape(-1, dense.shape[-1]).to(torch.float32)
    found = (x - y).T @ y
    group.drift = found if group.drift is None else group.drift.add_(found)


class _Inputs:
    """The inputs of some linears, in the order of their calls."""

    def __init__(self, layers: Sequence[LinearLayer]) -> None:
        self._layers = layers
        self._seen: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}

    def attached(self) -> AbstractContextManager[None]:
        return hooked([self._watch(layer) for layer in self._layers])

    def take(self, name: str) -> list[Tensor]:
        """What the layer has been called with since it was asked for last."""
        found, self._seen[name] = self._seen[name], []
        return found

    def _watch(self, layer: LinearLayer) -> RemovableHandle:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._seen[layer.name].append(args[0] if args else next(iter(kwargs.values())))

        return layer.module.register_forward_pre_hook(hook, with_kwargs=True)
