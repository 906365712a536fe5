"""Checking that a model's blocks are a plain chain, on a few tokens, before anything is built on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .capture import Call, capture, hidden_of, replaced_forwards, same, split_call
from .models import Block

_PROBE_TOKENS = 8


def probe(model: nn.Module, blocks: Sequence[Block]) -> list[Any]:
    """Run a few tokens through the model and check that its blocks form a plain chain.

    Returns the output of every block, the template for `capture`. Raises ValueError if the blocks are not
    called once each, in order, on each other's hidden states, or with arguments that depend on an earlier
    block.
    """
    seen: list[tuple[int, Call, Tensor, Any]] = []

    def recorder(index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            call, hidden = split_call(args, kwargs)
            hidden, output = hidden.clone(), forward(*args, **kwargs)
            seen.append((index, call, hidden, output))
            return output

        return run

    tokens = torch.arange(_PROBE_TOKENS, device=next(model.parameters()).device).unsqueeze(0)
    with replaced_forwards(blocks, recorder), torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    _check_chain(blocks, seen)
    outputs = [output for _, _, _, output in seen]
    bypassed = capture(model, blocks, outputs, tokens)
    for block, (_, call, _, _), again in zip(blocks, seen, bypassed.calls, strict=True):
        if (where := _difference(call, again)) is not None:
            raise ValueError(f"{block.name}: its argument {where} depends on earlier blocks; this is not supported")
    return outputs


def _check_chain(blocks: Sequence[Block], seen: Sequence[tuple[int, Call, Tensor, Any]]) -> None:
    order = [index for index, _, _, _ in seen]
    if order != list(range(len(blocks))):
        raise ValueError(f"the blocks {blocks[0].name}... are called in the order {order}, not once each in sequence")
    for (_, _, _, output), (index, _, hidden, _) in pairwise(seen):
        if not _equal(hidden_of(output), hidden):
            raise ValueError(f"{blocks[index].name} does not read the output of the block before it")


def _difference(call: Call, other: Call) -> str | None:
    """The first argument in which two calls differ, None if they agree."""
    if call.slot != other.slot or len(call.args) != len(other.args):
        return "list"
    for position, (a, b) in enumerate(zip(call.args, other.args, strict=True)):
        if not same(a, b, _equal):
            return f"number {position}"
    if call.kwargs.keys() != other.kwargs.keys():
        return "names"
    return next((f"'{key}'" for key, value in call.kwargs.items() if not same(value, other.kwargs[key], _equal)), None)


def _equal(a: Any, b: Any) -> bool:
    """Equal values of tensors, NaN included: whether values are finite is checked, and explained, elsewhere."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())
