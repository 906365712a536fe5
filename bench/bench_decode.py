"""A whole Llama-shaped model on a GPU, linear layers dense or 2:4 + low rank: tokens a second decoding and in prefill.

    python bench/bench_decode.py [--blocks 32] [--batches 1,8,16,64] [--prefill 2048,8192] [--rank 64] [--separate]

The defaults are Llama-3-8B with random weights made on the device; embeddings and output head stay dense. Both models
run the same code: decoding is one CUDA graph a step over a static cache of --context positions, prefill one graph a
prompt, taking turns. Medians; whole steps, attention, norms and head included. The compressed q, k, v and gate, up run
as stacks, as `sparlow.load` makes them (--separate: one by one). `times_dense` compares with dense layers as
transformers has them, one by one, `times_dense_stacked` with dense q, k, v and gate, up as one matrix each. One JSON
line a measurement.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import results
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparlow import benchmark
from sparlow.cli.bench import parse_tokens
from sparlow.stacks import stack

DEVICE = torch.device("cuda")
HEAD = 128  # dimensions of an attention head
Linear = Callable[[int, int], nn.Module]


@torch.compile(dynamic=True)
def add_norm(x: Tensor, change: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    x = x + change
    return x, functional.rms_norm(x, (x.shape[-1],), weight, 1e-5)


@torch.compile(dynamic=True)
def gated(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up


@torch.compile(dynamic=True)
def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x [batch, tokens, heads, HEAD], angles [tokens, HEAD / 2]."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class Siblings(nn.Module):
    """Layers that read the same input, as modules of their own or as one matrix."""

    def __init__(self, linear: Linear, names: Sequence[str], sizes: Sequence[int], hidden: int, one: bool) -> None:
        super().__init__()
        self.names, self.sizes = ["all"] if one else list(names), list(sizes)
        for name, d_out in zip(self.names, [sum(sizes)] if one else sizes, strict=True):
            self.add_module(name, linear(d_out, hidden))

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        outputs = [self.get_submodule(name)(x) for name in self.names]
        return outputs[0].split(self.sizes, dim=-1) if len(outputs) == 1 else outputs


class Attention(nn.Module):
    def __init__(self, linear: Linear, args: argparse.Namespace, one: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads = args.hidden // HEAD, args.kv_heads
        kv = self.kv_heads * HEAD
        self.qkv = Siblings(linear, ("q_proj", "k_proj", "v_proj"), (args.hidden, kv, kv), args.hidden, one)
        self.o = linear(args.hidden, args.hidden)

    def forward(self, x: Tensor, angles: Tensor, cache: Tensor, position: Tensor, seen: Tensor) -> Tensor:
        """cache [2, batch, kv_heads, context, HEAD]; a single token attends to all positions marked in `seen`."""
        batch, tokens = x.shape[:2]
        q, k, v = (part.unflatten(-1, (-1, HEAD)) for part in self.qkv(x))
        q, k = rotate(q, angles).transpose(1, 2), rotate(k, angles).transpose(1, 2)
        keys, values = cache[0].index_copy_(2, position, k), cache[1].index_copy_(2, position, v.transpose(1, 2))
        if tokens == 1:  # heads of a group share keys: they are the rows of one query
            q = q.reshape(batch, self.kv_heads, -1, HEAD)
            y = functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
        else:
            y = functional.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=True, enable_gqa=True)
        return self.o(y.reshape(batch, self.heads, tokens, HEAD).transpose(1, 2).reshape(batch, tokens, -1))


class Block(nn.Module):
    def __init__(self, linear: Linear, args: argparse.Namespace, one: bool) -> None:
        super().__init__()
        self.attention = Attention(linear, args, one)
        self.gate_up = Siblings(linear, ("gate_proj", "up_proj"), (args.intermediate,) * 2, args.hidden, one)
        self.down = linear(args.hidden, args.intermediate)
        self.norms = [torch.ones(args.hidden, device=DEVICE, dtype=torch.bfloat16) for _ in range(2)]


class Model(nn.Module):
    def __init__(self, linear: Linear, args: argparse.Namespace, one: bool = False) -> None:
        super().__init__()
        self.embed, self.head = (random(args.vocabulary, args.hidden) for _ in range(2))
        self.blocks = nn.ModuleList([Block(linear, args, one) for _ in range(args.blocks)])
        self.norm = torch.ones(args.hidden, device=DEVICE, dtype=torch.bfloat16)
        self.frequencies = 5e5 ** (-torch.arange(0, HEAD, 2, device=DEVICE) / HEAD)

    def forward(self, ids: Tensor, caches: list[Tensor], position: Tensor) -> Tensor:
        """Logits of the last token. ids [batch, tokens] at `position` [tokens]."""
        x = self.embed[ids]
        change = torch.zeros_like(x)
        angles = position[:, None] * self.frequencies
        seen = (torch.arange(caches[0].shape[3], device=DEVICE) <= position[-1]).view(1, 1, 1, -1)
        for block, cache in zip(self.blocks, caches, strict=True):
            assert isinstance(block, Block)
            x, normed = add_norm(x, change, block.norms[0])
            x, normed = add_norm(x, block.attention(normed, angles, cache, position, seen), block.norms[1])
            change = block.down(gated(*block.gate_up(normed)))
        _, normed = add_norm(x[:, -1:].contiguous(), change[:, -1:].contiguous(), self.norm)
        return functional.linear(normed, self.head)


def random(rows: int, columns: int) -> nn.Parameter:
    values = torch.empty(rows, columns, device=DEVICE, dtype=torch.bfloat16).normal_(std=0.02)
    return nn.Parameter(values, requires_grad=False)


def dense_linear(d_out: int, d_in: int) -> nn.Module:
    layer = nn.Linear(d_in, d_out, bias=False, device="meta")
    layer.weight = random(d_out, d_in)
    return layer


def milliseconds(models: Sequence[Model], batch: int, tokens: int, args: argparse.Namespace) -> list[float]:
    context = max(args.context, tokens)
    shape = (2, batch, args.kv_heads, context, HEAD)
    caches = [torch.zeros(shape, device=DEVICE, dtype=torch.bfloat16) for _ in range(args.blocks)]
    ids = torch.randint(args.vocabulary, (batch, tokens), device=DEVICE)
    position = torch.arange(tokens, device=DEVICE) + (context - 1 if tokens == 1 else 0)
    runs = [partial(model, ids, caches, position) for model in models]
    return [statistics.median(us) / 1000 for us in benchmark.alternating(runs, DEVICE, 9)]


def measure(models: Sequence[Model], args: argparse.Namespace) -> list[dict[str, Any]]:
    """models: ours, dense, dense with one matrix for layers that read the same."""
    cases = [("decode", batch, batch, 1) for batch in args.batches]
    cases += [("prefill", tokens, 1, tokens) for tokens in args.prefill]
    rows = []
    for what, count, batch, tokens in cases:
        ms, dense, dense_stacked = milliseconds(models, batch, tokens, args)
        row = {
            "what": what,
            "tokens": count,  # sequences of a decoding step, or tokens of a prompt
            "dense_ms": round(dense, 3),
            "dense_stacked_ms": round(dense_stacked, 3),
            "ms": round(ms, 3),
            "times_dense": round(dense / ms, 3),
            "times_dense_stacked": round(dense_stacked / ms, 3),
            "tokens_per_s": round(1000 * count / ms, 1),
            "dense_tokens_per_s": round(1000 * count / dense, 1),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        torch.cuda.empty_cache()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "blocks": 32,
        "hidden": 4096,
        "intermediate": 14336,
        "kv_heads": 8,
        "vocabulary": 128256,
    }.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    parser.add_argument("--separate", action="store_true", help="compressed layers one by one, no stacks")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--batches", type=parse_tokens, default=[1, 8, 16, 64])
    parser.add_argument("--prefill", type=parse_tokens, default=[2048, 8192])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        dense, dense_stacked = (Model(dense_linear, args, one) for one in (False, True))

        def compressed_linear(d_out: int, d_in: int) -> nn.Module:
            return benchmark.random_layer(d_out, d_in, args.rank, torch.bfloat16, DEVICE)

        model = Model(compressed_linear, args)
        if not args.separate:
            stack(model)
        held, whole = benchmark.weight_bytes(model)
        rows = measure([model, dense, dense_stacked], args)
    memory = {"weight_bytes": held, "dense_weight_bytes": whole, "share": round(held / whole, 4)}
    print(json.dumps(memory), flush=True)
    if args.out:
        stacked = not args.separate
        results.write(args.out, "cuda", rows, rank=args.rank, context=args.context, stacked=stacked, memory=memory)


if __name__ == "__main__":
    main()
