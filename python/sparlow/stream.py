"""The calibration stream: the hidden states of every batch on their way through the blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .capture import Call, StopForward, capture, moved, shared
from .gram_groups import GramCollector, GramGroup
from .models import Block, LinearLayer, describe_non_finite
from .precision import lent, lent_module
from .probe import probe


class Stream:
    """Hidden states [batch, tokens, d] of all batches, before the block that is next.

    They are held once, in `dtype` on `device`, and replaced batch by batch as they pass a block. Every
    forward pass runs in `dtype`; the model's own tensors are left as they are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: Sequence[Block],
        windows: Tensor,
        *,
        batch: int | list[int],
        dtype: torch.dtype,
        device: str,
    ) -> None:
        """windows: [windows, tokens] token ids, `batch` of them per forward pass, or the sizes of all batches."""
        self._dtype, self._device = dtype, device
        self._blocks = list(blocks)
        self._hidden: list[Tensor] = []
        self._calls: list[list[Call]] = []
        self._fill(model, windows, batch)

    @property
    def tokens(self) -> int:
        """Number of tokens in the stream."""
        return sum(hidden.shape[0] * hidden.shape[1] for hidden in self._hidden)

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states and of every forward pass."""
        return self._dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the stream's hidden states."""
        return sum(hidden.nbytes for hidden in self._hidden)

    @property
    def hidden(self) -> Sequence[Tensor]:
        """The hidden states before the next block, one tensor [windows, tokens, d] per batch."""
        return self._hidden

    def calls(self, index: int) -> list[Call]:
        """The arguments of block `index`, one call per batch."""
        return [calls[index] for calls in self._calls]

    def outputs(self, index: int, inputs: Sequence[Tensor]) -> Iterator[Tensor]:
        """Run block `index` on other hidden states, one tensor per batch, wherever they lie; the stream stays.

        Raises ValueError naming the block if it makes NaN or Inf.
        """
        block = self._blocks[index]
        with lent_module(block.module, self._dtype, self._device), torch.no_grad():
            for hidden, calls in zip(inputs, self._calls, strict=True):
                yield _finite(block, calls[index].run(block.module, hidden.to(self._device)))

    def paired(self, index: int, inputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """As `outputs`, but every batch runs on the stream's own hidden states first; yields both outputs."""
        block = self._blocks[index]
        with lent_module(block.module, self._dtype, self._device), torch.no_grad():
            for own, hidden, calls in zip(self._hidden, inputs, self._calls, strict=True):
                first = calls[index].run(block.module, own)
                yield first, _finite(block, calls[index].run(block.module, hidden.to(self._device)))

    def grams(self, index: int, layers: Sequence[LinearLayer]) -> list[GramGroup]:
        """Run block `index` on the stream and accumulate the Gram matrix of each input of `layers`.

        The stream stays where it is. Raises ValueError naming the layer for NaN or Inf among its inputs,
        and for a layer that the block does not call.
        """
        block = self._blocks[index]
        collector = GramCollector(layers, device=self._device)
        with lent_module(block.module, self._dtype, self._device), torch.no_grad(), collector.attached():
            for hidden, calls in zip(self._hidden, self._calls, strict=True):
                with suppress(StopForward):
                    calls[index].run(block.module, hidden)
                collector.end_batch()
        return collector.groups()

    def advance(self, index: int) -> None:
        """Run block `index` and put its outputs in the place of its inputs.

        Raises ValueError naming the block if it makes NaN or Inf.
        """
        block = self._blocks[index]
        with lent_module(block.module, self._dtype, self._device), torch.no_grad():
            for position, calls in enumerate(self._calls):
                self._hidden[position] = _finite(block, calls[index].run(block.module, self._hidden[position]))
        for calls in self._calls:
            calls[index] = _SPENT

    def _fill(self, model: PreTrainedModel, windows: Tensor, batch: int | list[int]) -> None:
        outputs = probe(model, self._blocks)
        device = next(model.parameters()).device
        with lent(_before_blocks(model, self._blocks), self._dtype):
            for tokens in torch.split(windows, batch):
                captured = capture(model, self._blocks, outputs, tokens.to(device))
                calls = [moved(call, torch.device(self._device)) for call in captured.calls]
                self._calls.append(self._deduplicated(calls))
                self._hidden.append(captured.hidden.to(self._device, self._dtype))

    def _deduplicated(self, calls: list[Call]) -> list[Call]:
        """Masks and rotary tables are mostly the same in every batch and block: hold them once."""
        for index, call in enumerate(calls):
            if index > 0:
                call = shared(call, calls[index - 1])
            calls[index] = shared(call, self._calls[0][index]) if self._calls else call
        return calls


def _finite(block: Block, hidden: Tensor) -> Tensor:
    if (problem := describe_non_finite(hidden)) is not None:
        raise ValueError(f"{block.name}: its output holds {problem} on the calibration data")
    return hidden


def _before_blocks(model: PreTrainedModel, blocks: Sequence[Block]) -> list[nn.Parameter]:
    """The parameters that may take part in a forward pass up to the first block."""
    skipped = [block.module for block in blocks]
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        skipped.append(head)
    inside = {id(p) for module in skipped for p in module.parameters()}
    return [p for p in model.parameters() if id(p) not in inside]


_SPENT = Call((), {}, 0)
