"""Synthetic layers with the traits of real ones: correlated inputs, heavy-tailed spectrum, outlier channels."""

from __future__ import annotations

import torch
from torch import Tensor

import sparlow


def layer(d_out: int, d_in: int, *, device: str, seed: int = 0) -> tuple[Tensor, Tensor, int]:
    """A weight [d_out, d_in], the Gram matrix [d_in, d_in] of its inputs (both float32) and the number of tokens."""
    random = torch.Generator(device=device).manual_seed(seed)
    tokens = 2 * d_in

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, device=device)

    spectrum = torch.arange(1, d_in + 1, device=device).float().pow(-0.4)
    mixing = normal(d_in, d_in) / d_in**0.5
    channels = torch.exp(0.5 * normal(d_in))
    channels[torch.randperm(d_in, generator=random, device=device)[: max(1, d_in // 500)]] *= 20
    gram = sparlow.Gram(d_in, device=device)
    for begin in range(0, tokens, 8192):
        x = (normal(min(8192, tokens - begin), d_in) * spectrum) @ mixing * channels
        gram.add(x.to(torch.bfloat16))
    return normal(d_out, d_in) * 0.02, gram.matrix(), tokens
