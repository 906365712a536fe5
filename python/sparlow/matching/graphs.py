"""Replaying the work on a batch as a CUDA graph: small blocks spend most of a step on launching kernels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparlow.capture import Call, same
from sparlow.matching.batches import Batch

_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Waits(Exception):
    """Work has to wait for the device in its middle."""


class Rehearsal(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises `Waits` before whatever a graph cannot hold: results that depend on data, copies from device to device.

    A capture that fails is no way to find out: it leaves torch's allocator and random numbers in its own state.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            raise Waits(str(func))
        if func in _COPIES:
            places = {torch.device(x.device).type for x in tree_leaves(args) if isinstance(x, Tensor)}
            asked = (kwargs or {}).get("device")
            if len(places | ({torch.device(asked).type} if asked is not None else set())) > 1:
                raise Waits(str(func))
        return func(*args, **(kwargs or {}))


@dataclass
class _Recorded:
    """A graph, the batch it reads and the tensor it writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    result: Tensor


class Replay:
    """`work`, captured once per shape of batch after an ordinary run and a rehearsal, and replayed from then on.

    A batch whose block is called with other arguments than the captured one runs in the ordinary way. So does
    everything if the work cannot be captured, because it waits for the device in its middle. Work that waits must do
    so before it changes anything.
    """

    def __init__(self, work: Callable[[Batch], Tensor], *, enabled: bool) -> None:
        self._work, self._enabled = work, enabled
        self._runs: dict[torch.Size, int] = {}
        self._recorded: dict[torch.Size, _Recorded] = {}
        self._captured = False

    @property
    def captured(self) -> bool:
        """Whether any shape of batch was replayed."""
        return self._captured

    def release(self) -> None:
        """Free the graphs and the memory they hold; later calls run in the ordinary way."""
        self._recorded.clear()
        self._enabled = False

    def __call__(self, batch: Batch) -> Tensor:
        shape = batch.inputs.shape
        if self._enabled and shape not in self._recorded:
            self._runs[shape] = self._runs.get(shape, 0) + 1
            if self._runs[shape] == 2:
                return self._rehearse(batch)
            if self._runs[shape] > 2:
                self._capture(batch)
        recorded = self._recorded.get(shape)
        if recorded is None or not _same_call(recorded.batch.call, batch.call):
            return self._work(batch)
        recorded.batch.inputs.copy_(batch.inputs)
        recorded.batch.targets.copy_(batch.targets)
        recorded.batch.weights.copy_(batch.weights)
        recorded.graph.replay()
        return recorded.result

    def _rehearse(self, batch: Batch) -> Tensor:
        try:
            with Rehearsal():  # type: ignore[no-untyped-call]
                return self._work(batch)
        except (Waits, NotImplementedError):  # the latter: operators that know no rehearsal, such as flex attention
            self._enabled = False
            return self._work(batch)

    def _capture(self, batch: Batch) -> None:
        own = Batch(batch.inputs.clone(), batch.targets.clone(), batch.weights.clone(), batch.call)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        # A capture that fails leaves its own stream the current one.
        present = torch.cuda.stream(torch.cuda.current_stream(batch.inputs.device))
        try:
            # Other threads may go on using the device: a monitor's question for free memory must not end the capture.
            with present, torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
                result = self._work(own)
        except RuntimeError as error:
            self._enabled = False
            torch.cuda.synchronize(batch.inputs.device)
            _abandon(batch.inputs.device, pool)
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return
        self._captured = True
        self._recorded[batch.inputs.shape] = _Recorded(graph, own, result)


def _abandon(device: torch.device, pool: Any) -> None:
    """Undo what a failed capture leaves behind in torch: memory set aside, random numbers that wait for a replay."""
    index = torch.cuda.current_device() if device.index is None else device.index
    with suppress(RuntimeError):  # the capture itself had ended: only the graph could not be made
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)
    number = torch.zeros((), device=device)
    with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
        number.add_(1)


def _same_call(a: Call, b: Call) -> bool:
    """The same tensors, not merely equal ones: a graph reads the memory it was captured with."""
    return a.slot == b.slot and same(a.args, b.args, is_) and same(a.kwargs, b.kwargs, is_)
