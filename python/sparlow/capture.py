"""Capturing what a model passes to each of its blocks, and replaying a block with it.

A block is called with hidden states plus arguments that the model prepares for it (masks, rotary tables,
positions). Those arguments are recorded verbatim while the blocks themselves are bypassed, so a capture
costs no more than the embeddings, whatever the size of the model. `probe` checks on a few tokens that
this is sound for the model at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .models import Block


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a block, without its hidden states, which go to `slot`."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    slot: int | str

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Call the block on `hidden` [batch, tokens, d]; its new hidden states."""
        args, kwargs = list(self.args), dict(self.kwargs)
        if isinstance(self.slot, int):
            args.insert(self.slot, hidden)
        else:
            kwargs[self.slot] = hidden
        return hidden_of(block(*args, **kwargs))


@dataclass(frozen=True)
class Captured:
    """One batch: the hidden states [batch, tokens, d] of the first block, and one call per block."""

    hidden: Tensor
    calls: list[Call]


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """The hooks are removed when the context ends, whatever happened in it."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class StopForward(Exception):
    """Ends a forward pass whose rest nobody needs."""


def capture(model: nn.Module, blocks: Sequence[Block], outputs: Sequence[Any], tokens: Tensor) -> Captured:
    """The first block's hidden states and every block's arguments for `tokens` [batch, tokens].

    outputs: from `probe`. The blocks are bypassed and the pass ends at the last one, so no logits are made.
    """
    calls: list[Call] = []
    states: list[Tensor] = []

    def bypass(index: int, _: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            call, hidden = split_call(args, kwargs)
            calls.append(call)
            if index == 0:
                states.append(hidden)
            if index == len(blocks) - 1:
                raise StopForward
            template = outputs[index]
            return hidden if isinstance(template, Tensor) else (hidden, *template[1:])

        return run

    with replaced_forwards(blocks, bypass), torch.no_grad():
        try:
            model(input_ids=tokens, use_cache=False)
        except StopForward:
            return Captured(states[0], calls)
    raise RuntimeError(f"{type(model).__name__} did not call its last block, {blocks[-1].name}")


def shared(call: Call, earlier: Call) -> Call:
    """`call` with the tensors that equal their counterpart in `earlier` replaced by it, to hold them once."""
    if call.slot != earlier.slot or len(call.args) != len(earlier.args) or call.kwargs.keys() != earlier.kwargs.keys():
        return call
    args = tuple(_share(new, old) for new, old in zip(call.args, earlier.args, strict=True))
    return Call(args, {key: _share(value, earlier.kwargs[key]) for key, value in call.kwargs.items()}, call.slot)


def moved(call: Call, device: torch.device) -> Call:
    """`call` with its tensors on `device`."""
    return _changed(call, lambda tensor: tensor.to(device))


def converted(calls: Sequence[Call], before: torch.dtype, after: torch.dtype) -> list[Call]:
    """`calls` with their tensors of dtype `before` in `after`; what they hold in common they still do."""
    found: dict[int, Tensor] = {}

    def convert(tensor: Tensor) -> Tensor:
        if tensor.dtype != before or before == after:
            return tensor
        if id(tensor) not in found:
            found[id(tensor)] = tensor.to(after)
        return found[id(tensor)]

    return [_changed(call, convert) for call in calls]


def same(a: Any, b: Any, leaves: Callable[[Any, Any], bool]) -> bool:
    """Whether two arguments have one structure and equal plain values, and `leaves` says yes to all else in them."""
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(same(x, y, leaves) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(value, b[key], leaves) for key, value in a.items())
    if a is None or isinstance(a, bool | int | float | str):
        return bool(a == b)
    return leaves(a, b)


def split_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, Tensor]:
    """The arguments of a block apart from its hidden states, and those."""
    if args and isinstance(args[0], Tensor):
        return Call(args[1:], kwargs, 0), args[0]
    hidden = kwargs.get("hidden_states")
    if not isinstance(hidden, Tensor):
        raise ValueError(f"a block is called without hidden states (arguments: {', '.join(kwargs)})")
    return Call(args, {k: v for k, v in kwargs.items() if k != "hidden_states"}, "hidden_states"), hidden


def hidden_of(output: Any) -> Tensor:
    """The hidden states among what a block returned."""
    hidden = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(hidden, Tensor):
        raise ValueError(f"a block returned a {type(output).__name__} that does not start with a tensor")
    return hidden


@contextmanager
def replaced_forwards(
    blocks: Sequence[Block], make: Callable[[int, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Have every block run `make(index, its own forward)` instead of its forward, until the context ends."""
    before = [block.module.__dict__.get("forward") for block in blocks]
    for index, block in enumerate(blocks):
        block.module.__dict__["forward"] = make(index, block.module.forward)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                del block.module.__dict__["forward"]
            else:
                block.module.__dict__["forward"] = own


def _share(new: Any, old: Any) -> Any:
    if isinstance(new, Tensor) and isinstance(old, Tensor):
        return old if new.dtype == old.dtype and torch.equal(new, old) else new
    if type(new) is tuple and type(old) is tuple and len(new) == len(old):
        return tuple(_share(a, b) for a, b in zip(new, old, strict=True))
    return new


def _changed(call: Call, change: Callable[[Tensor], Tensor]) -> Call:
    return Call(_mapped(call.args, change), _mapped(call.kwargs, change), call.slot)


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if type(tree) in (tuple, list):
        return type(tree)(_mapped(item, change) for item in tree)
    if type(tree) is dict:
        return {key: _mapped(value, change) for key, value in tree.items()}
    return tree
