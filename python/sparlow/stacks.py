"""Sibling layers that read the same input as one packed layer: q, k and v; gate and up.

A stack has one buffer and one launch. Its layers stay modules of their own, with their own parameters, names and
adapters; each hands out its rows. Which layers belong together says their name; that they were called with the same
tensor is checked each time:

* hooks of the module that owns the siblings mark the time in which it runs;
* the first sibling called in that time computes the rows of all and keeps them;
* a sibling called with the very same tensor takes its rows; one called with another computes its rows alone;
* what was kept is dropped when the owner returns or fails, so that nothing computed earlier is ever handed out, also
  when memory is reused or an input changes in place. Outside its owner a layer always computes its rows alone.

Nothing in transformers is replaced, no tensor is looked up by its address, and all of it can be traced:
`torch.compile(fullgraph=True)` sees one operator and slices of its output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparlow import packed, packed_ops
from sparlow.packable import Packable
from sparlow.packed import ALL_PARTS, Shape

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_ROWS = 128  # of a tile of the kernels for many tokens, which may not reach from one part into the next
_MOST_PADDING = 1.03  # bytes of a stack, whose narrower factors are padded, over those of its layers


class Stack:
    """The siblings of one stack, and what the first one called has computed for the others."""

    def __init__(self, members: Sequence[Packable], owner: nn.Module) -> None:
        self.members = list(members)
        self.inside = False
        self.kept: tuple[Tensor, tuple[Tensor, ...]] | None = None
        for member in members:
            member.unpack()
            member.stack = self
        after = owner.register_forward_hook(self.leave, always_call=True)  # also when it fails
        self.hooks = [owner.register_forward_pre_hook(self.enter), after]

    def enter(self, *owner_and_input: Any) -> None:
        """Before the owner runs."""
        del owner_and_input
        self.inside, self.kept = True, None

    def leave(self, *owner_input_and_output: Any) -> None:
        """After it."""
        del owner_input_and_output
        self.inside, self.kept = False, None

    def dissolve(self) -> None:
        """Let every layer be packed by itself again."""
        self.unpack()
        for hook in self.hooks:
            hook.remove()
        for member in self.members:
            member.stack = None
            member.settle()

    @property
    def rows(self) -> list[int]:
        return [member.spec.d_out for member in self.members]

    @property
    def shape(self) -> Shape:
        specs = [member.spec for member in self.members]
        rank = max(spec.rank for spec in specs)
        return Shape("nm24", sum(self.rows), specs[0].d_in, rank, rows=tuple(self.rows))

    @property
    def buffer(self) -> Tensor:
        return self.members[0].weight_packed

    def settle(self) -> None:
        """Pack once all layers are in evaluation mode, on one device and of one dtype."""
        kinds = {(member.weight_packed.device, member.weight_packed.dtype) for member in self.members}
        ready = all(not member.is_packed and not member.training and member.can_pack() for member in self.members)
        if ready and len(kinds) == 1:
            with torch.inference_mode(False), torch.no_grad():
                self._pack()

    def _pack(self) -> None:
        buffer = packed.new_buffer(self.shape, self.members[0].weight_packed.detach())
        for part, member in enumerate(self.members):
            tensors = {name: tensor.detach() for name, tensor in member.checkpoint_tensors().items()}
            packed.pack(self.shape, part, tensors, buffer)
            del tensors
            member.hold(buffer if part == 0 else buffer.new_empty(0))
        if self.members[0].bias is not None:
            biases = torch.cat([member.bias.detach() for member in self.members])
            for member, bias in zip(self.members, torch.split(biases, self.rows), strict=True):
                member.bias.data = bias

    def unpack(self) -> None:
        """Bring the tensors of all layers back."""
        if not self.members[0].is_packed:
            return
        with torch.inference_mode(False), torch.no_grad():
            found = [self.unpacked(member) for member in self.members]
        for member, tensors in zip(self.members, found, strict=True):
            member.restore(tensors)
            if member.bias is not None:
                member.bias.data = member.bias.data.clone()

    def unpacked(self, member: Packable) -> dict[str, Tensor]:
        """The checkpoint's tensors of one layer."""
        tensors = packed.unpack(self.shape, self.members.index(member), self.buffer.detach())
        rank = member.spec.rank
        tensors["low_rank_u"] = tensors["low_rank_u"][:, :rank].contiguous()
        tensors["low_rank_v"] = tensors["low_rank_v"][:rank].contiguous()
        return tensors

    def run(self, member: Packable, x: Tensor, key: Tensor) -> Tensor:
        """y of one layer; x in the packed dtype. key: the tensor that the layer was called with."""
        part = self.members.index(member)
        kept = self.kept  # read once: another thread may run the model too
        if not self.inside or (kept is not None and kept[0] is not key):
            return self._rows_of(x, part)
        if kept is None:
            kept = self.kept = (key, torch.split(self._rows_of(x, ALL_PARTS), self.rows, dim=-1))
        return kept[1][part]

    def _rows_of(self, x: Tensor, part: int) -> Tensor:
        biases = [member.bias for member in self.members if member.bias is not None]
        y: Tensor = packed_ops.nm24_stack(x, self.buffer, biases, self.rows, self.shape.rank, part)
        return y


def stack(model: nn.Module) -> list[Stack]:
    """Stack what can be stacked in a model; layers that already are stay as they are. Answers the new stacks."""
    stacks = [Stack(members, owner) for owner, members in list(_groups(model)) if can_stack(members)]
    for made in stacks:
        made.settle()
    return stacks


def unstack(model: nn.Module) -> None:
    """Undo `stack`: every layer has its own buffer and launch."""
    for found in {id(m.stack): m.stack for m in model.modules() if isinstance(m, Packable)}.values():
        if found is not None:
            found.dissolve()


def can_stack(members: Sequence[Packable]) -> bool:
    """Whether kernels can run these layers as one and that costs no more bytes than they have."""
    specs = [member.spec for member in members]
    if any(spec.format != "nm24" or spec.sign_rank or spec.d_in != specs[0].d_in for spec in specs):
        return False
    if any(spec.d_out % _ROWS for spec in specs[:-1]) or len({member.bias is None for member in members}) > 1:
        return False
    rank = max(spec.rank for spec in specs)
    bytes = [9 / 16 * s.d_out * s.d_in + s.rank * (s.d_out + s.d_in) for s in specs]
    padding = sum((rank - s.rank) * (s.d_out + s.d_in) for s in specs)
    return sum(bytes) + padding <= _MOST_PADDING * sum(bytes)


def _groups(model: nn.Module) -> Iterator[tuple[nn.Module, list[Packable]]]:
    for owner in model.modules():
        children = dict(owner.named_children())
        for names in SIBLINGS:
            members = [m for name in names if isinstance(m := children.get(name), Packable) and m.stack is None]
            if len(members) == len(names):
                yield owner, members
