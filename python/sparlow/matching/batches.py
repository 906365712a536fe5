"""The batches that a block is trained on: its inputs, its targets and what each token counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparlow.capture import Call

# Part of the device's free memory that targets may take; the rest is for weights, optimizer and one step.
_SHARE_OF_DEVICE = 0.4


@dataclass(frozen=True)
class Batch:
    """inputs, targets [windows, tokens, d]; weights [windows, tokens] of the tokens' squared errors; call: see `Call`.

    The loss of a batch is the sum of weight times squared error, so that it is a fraction of the target's energy.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    call: Call


class Batches:
    """All batches of a block, wherever their tensors lie; iterating moves one ahead to the device."""

    def __init__(
        self,
        inputs: Sequence[Tensor],
        targets: Sequence[Tensor],
        calls: Sequence[Call],
        loss: str,
        device: str,
    ) -> None:
        """loss: "squared" or "normalized", as in `Matching`."""
        self._inputs, self._targets, self._calls = inputs, targets, calls
        self._device = torch.device(device)
        self._weights = _token_weights(targets, loss, self._device)
        self._copies = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self._inputs)

    def walk(self, order: Sequence[int]) -> Iterator[Batch]:
        """The batches with these numbers, in this order, on the device."""
        ahead: tuple[Batch, torch.cuda.Event | None] | None = None
        for position in range(len(order) + 1):
            ready, ahead = ahead, self._fetch(order[position]) if position < len(order) else None
            if ready is not None:
                batch, arrived = ready
                if arrived is not None:
                    torch.cuda.current_stream(self._device).wait_event(arrived)
                yield batch

    def _fetch(self, index: int) -> tuple[Batch, torch.cuda.Event | None]:
        inputs, targets = self._inputs[index], self._targets[index]
        if self._copies is None or (inputs.is_cuda and targets.is_cuda):
            return Batch(inputs, targets, self._weights[index], self._calls[index]), None
        with torch.cuda.stream(self._copies):
            inputs = inputs.to(self._device, non_blocking=True)
            targets = targets.to(self._device, non_blocking=True)
            arrived = self._copies.record_event()
        for tensor in (inputs, targets):
            tensor.record_stream(torch.cuda.current_stream(self._device))
        return Batch(inputs, targets, self._weights[index], self._calls[index]), arrived


def shelved(tensor: Tensor, host: bool) -> Tensor:
    """`tensor` where it shall wait: on its device, or in pinned host memory."""
    if not host or not tensor.is_cuda:
        return tensor
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)


def use_host(activations: str, count: int, device: str) -> bool:
    """Whether `count` bytes of activations go to host memory; `activations` as in `Matching`."""
    if activations != "auto" or torch.device(device).type != "cuda":
        return activations == "host"
    free = torch.cuda.mem_get_info(device)[0]
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return count > _SHARE_OF_DEVICE * (free + unused)


def _token_weights(targets: Sequence[Tensor], loss: str, device: torch.device) -> list[Tensor]:
    energies = [target.float().square().sum(-1).to(device) for target in targets]
    if loss == "squared":
        tokens = sum(energy.numel() for energy in energies)
        mean = torch.stack([energy.sum() for energy in energies]).sum() / tokens
        energies = [torch.full_like(energy, float(mean)) for energy in energies]
    return [1.0 / (energy.clamp_min(1e-20) * energy.numel()) for energy in energies]
