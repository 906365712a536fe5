"""Compression of a whole model of a given shape with random weights made on the device: seconds, peak memory.

    python bench/bench_model.py [--blocks 1] [--hidden 4096] [--intermediate 14336] [--matching true] [--out FILE]

The defaults are one block of Llama-3-8B on 128 windows of 2048 tokens, 2:4 + rank 64: Gram matrices, seven layers
solved, both forward passes. Random weights and tokens cost what real ones cost; their losses mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import threading
import time
from pathlib import Path

import results
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import sparlow
from sparlow.records import Silent


class Watcher(Silent):
    """Notes when each block began, and, from a thread of its own, how little device memory was left."""

    def __init__(self) -> None:
        self.least_free, self.total = torch.cuda.mem_get_info()
        self.begun: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def block(self, index: int) -> None:  # noqa: ARG002
        self.mark()

    def mark(self) -> None:
        torch.cuda.synchronize()
        self.begun.append(time.perf_counter())

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(0.01):
            self.least_free = min(self.least_free, torch.cuda.mem_get_info()[0])


def random_model(args: argparse.Namespace) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.blocks,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        vocab_size=args.vocabulary,
        max_position_embeddings=args.window_tokens,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    with torch.device(args.device):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    model.to(args.weights)
    reset_peak(args.device)
    return model


def reset_peak(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def torch_peak(device: str) -> float | None:
    """GiB that torch's allocator held at most since `reset_peak`."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if torch.device(device).type == "cuda" else None


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The options that say what model is made, on how many tokens, and where figures go."""
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--weights", default="cpu", help="where the weights lie between their turns")
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=14336)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--window-tokens", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--out", type=Path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(parser)
    parser.add_argument("--matching", type=json.loads, help="the recipe's matching section as JSON, or true")
    args = parser.parse_args()
    model = random_model(args)
    tokens = torch.randint(0, args.vocabulary, (args.windows, args.window_tokens))
    recipe = sparlow.Recipe(
        rank=args.rank,
        device=args.device,
        compute_dtype="bfloat16",
        calibration={"windows": args.windows, "window_tokens": args.window_tokens, "batch": args.batch},
        matching=args.matching,
    )
    watcher = Watcher()
    start = time.perf_counter()
    compressed = sparlow.compress(model, recipe, tokens=tokens, progress=watcher)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    watcher.end()
    blocks = [after - before for before, after in itertools.pairwise(watcher.begun)]
    solving = sum(layer.seconds for layer in compressed.layers)
    row = {
        "blocks": args.blocks,
        "tokens": tokens.numel(),
        "seconds": seconds,
        "solver_seconds": solving,
        "matching": [dataclasses.asdict(record) for record in compressed.matching],
        "seconds_per_block": seconds / args.blocks,
        # Gram matrices, layers and both forward passes; the last block's second pass is not needed, so it is left out.
        "block_seconds": results.spread(blocks) if blocks else None,
        "peak_gib": (watcher.total - watcher.least_free) / 2**30,
        "torch_peak_gib": torch_peak(args.device),
    }
    print({key: value for key, value in row.items() if key != "matching"}, flush=True)
    for block in compressed.matching:
        losses = f"{block.held_out_before:.6f} to {block.held_out_after:.6f}"
        print(f"  {block.block} matched in {block.seconds:.2f} s, held-out loss {losses}")
    for layer in compressed.layers[:7]:
        print(f"  {layer.name} {layer.d_out}x{layer.d_in} {layer.seconds:.3f} s loss {layer.relative_loss:.4f}")
    if args.out:
        results.write(args.out, args.device, [row], rank=args.rank, pattern="2:4")


if __name__ == "__main__":
    main()
