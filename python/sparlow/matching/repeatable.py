"""Same seed, same bits on a GPU: attention's backward pass is made to add in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

# cuDNN's attention has no deterministic backward pass.
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Let blocks trained in this context on `device` give the same bits every time.

    Torch's deterministic mode is on only while the backward pass of flash attention runs: everywhere else it would
    refuse cuBLAS, which on one stream is deterministic anyway. A block whose attention cannot use flash attention
    (masks other than causal, float32) may still differ in the last bits.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filling, attention = memory.fill_uninitialized_memory, functional.scaled_dot_product_attention

    def restore(*_: Any) -> None:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])

    def watched(*args: Any, **kwargs: Any) -> Any:
        output = attention(*args, **kwargs)
        node = output.grad_fn
        if node is not None and "FlashAttention" in type(node).__name__:
            node.register_prehook(_enable)
            node.register_hook(restore)
        return output

    try:
        memory.fill_uninitialized_memory = False
        functional.scaled_dot_product_attention = watched
        with sdpa_kernel(_BACKENDS), torch.cuda.device(device):
            yield
    finally:
        functional.scaled_dot_product_attention = attention
        memory.fill_uninitialized_memory = filling
        restore()


def _enable(*_: Any) -> None:
    torch.use_deterministic_algorithms(True)
