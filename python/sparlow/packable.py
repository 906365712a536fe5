"""The life of a layer's tensors: as in the checkpoint, packed for a GPU, or packed together with its siblings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparlow import packed, packed_ops
from sparlow.packed import Shape
from sparlow.spec import LayerSpec

if TYPE_CHECKING:
    from sparlow.stacks import Stack


class Packable(nn.Linear):
    """A linear layer whose parameters give way to a packed buffer in evaluation mode, where a kernel can run it.

    While `is_packed`, `weight_packed` is the kernels' buffer and the other tensors of the weights are empty; `train()`,
    `state_dict()` and moving the layer bring them back, bit for bit, into parameters that stay the same objects. In a
    `Stack` the first layer holds the buffer of all.
    """

    is_packed = False
    stack: Stack | None = None
    spec: LayerSpec

    weight_packed: nn.Parameter

    def tensor_names(self) -> list[str]:
        """Parameters that are packed: all that the layer has but the bias."""
        return [name for name in packed.NAMES if getattr(self, name, None) is not None]

    def checkpoint_tensors(self) -> dict[str, Tensor]:
        """Weights as in the checkpoint, by name: the parameters, or what unpacking makes of them."""
        return self._unpacked() if self.is_packed else {name: getattr(self, name) for name in self.tensor_names()}

    def settle(self) -> None:
        """Pack in evaluation mode where a kernel can run the layer; unpack in training mode."""
        if self.training:
            self.unpack()
        elif self.stack is not None:
            self.stack.settle()
        elif not self.is_packed and self.can_pack():
            self._pack()

    def _pack(self) -> None:
        shape = Shape.of(self.spec)
        with torch.inference_mode(False), torch.no_grad():
            buffer = packed.new_buffer(shape, self.weight_packed.detach())
            packed.pack(shape, 0, {name: getattr(self, name).detach() for name in self.tensor_names()}, buffer)
        self.hold(buffer)

    def hold(self, buffer: Tensor) -> None:
        """Let `buffer` take the place of the tensors."""
        for name in self.tensor_names():
            parameter = getattr(self, name)
            parameter.data = buffer if name == "weight_packed" else parameter.data.new_empty(0)
        self.is_packed = True

    def can_pack(self) -> bool:
        """Whether this device has a kernel for this layer."""
        return self.why_not_packed() is None

    def why_not_packed(self) -> str | None:
        """Why no kernel of this device runs the layer; None if one does."""
        weight = self.weight_packed
        if self.spec.format == "dense":
            return "format dense has no kernel yet"
        if weight.dtype not in packed.DTYPES:
            return f"kernels compute in bfloat16 and float16, not in {weight.dtype}"
        if self.spec.d_in % 4:
            return f"kernels need d_in divisible by 4, not {self.spec.d_in}"
        return packed.why_not(weight.device)

    def unpack(self) -> None:
        """Bring the checkpoint's tensors back into the parameters, of the whole stack if there is one."""
        if not self.is_packed:
            return
        if self.stack is not None:
            self.stack.unpack()
            return
        self.restore(self._unpacked())

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put the checkpoint's tensors into the parameters."""
        for name, tensor in tensors.items():
            getattr(self, name).data = tensor
        self.is_packed = False

    def _unpacked(self) -> dict[str, Tensor]:
        with torch.inference_mode(False), torch.no_grad():
            if self.stack is not None:
                return self.stack.unpacked(self)
            return packed.unpack(Shape.of(self.spec), 0, self.weight_packed.detach())

    def train(self, mode: bool = True) -> Packable:
        """Set the mode; `settle` follows."""
        super().train(mode)
        self.settle()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Packable:
        self.unpack()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.settle()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_packed:
            destination |= {prefix + name: tensor for name, tensor in self._unpacked().items()}
            if self.stack is not None and self.bias is not None:
                destination[prefix + "bias"] = self.bias.detach().clone()  # it shares memory with those of the stack

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.unpack()
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.settle()

    def run_packed(self, x: Tensor, key: Tensor) -> Tensor:
        """y of the packed layer; x in its dtype. key: the tensor that the layer was called with."""
        if self.stack is not None:
            return self.stack.run(self, x, key)
        spec, buffer, bias = self.spec, self.weight_packed, self.bias
        if spec.format == "nm24" and spec.sign_rank == 0:
            y: Tensor = packed_ops.nm24_linear(x, buffer, bias, spec.d_out, spec.rank)
        else:
            sizes = (spec.d_out, spec.rank, spec.nnz or 0, spec.sign_rank)
            y = packed_ops.bits_linear(x, buffer, bias, spec.format, *sizes)
        return y
