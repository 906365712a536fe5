"""The same recipe on the CPU and on the GPU: losses layer by layer, perplexity, seconds.

    python bench/bench_devices.py MODEL --calibration TEXT --evaluation TEXT [--layers LAYERS] [--out FILE]

Two comparisons. `model`: both devices compress the whole model, each from what its own compressed blocks pass on, in
float32 forward passes; the checkpoints' perplexity on the held-out text is measured on one device. `layers`: both solve
the same weights and Gram matrices (LAYERS: a folder written by bench/layers.py), losses recomputed in f64.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import results
import torch
from bench_solvers import load_layers, loss_f64, ours, timed

import sparlow
from sparlow.evaluate import encode, perplexity

DEVICES = ("cpu", "cuda")
NAMES = ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"]


def held_out(args: argparse.Namespace, model: Any, tokenizer: Any) -> float:
    text = args.evaluation.read_text(encoding="utf-8")
    tokens = encode(tokenizer, text)[: args.evaluation_windows * args.window_tokens]
    return perplexity(model.to("cuda", torch.float32), tokens, args.window_tokens, 8)


def compressed(args: argparse.Namespace, device: str) -> tuple[dict[str, float], dict[str, Any]]:
    recipe = sparlow.Recipe.from_dict(
        {
            "rank": args.rank,
            "device": device,
            "compute_dtype": "float32",
            "calibration": {
                "source": str(args.calibration),
                "windows": args.windows,
                "window_tokens": args.window_tokens,
            },
        }
    )
    seconds, result = timed("cuda", lambda: sparlow.compress(args.model, recipe))
    losses = {record.name: record.stored_relative_loss for record in result.layers}
    return losses, {"seconds": seconds, "perplexity": held_out(args, result.model, result.tokenizer)}


def compare_model(args: argparse.Namespace) -> dict[str, Any]:
    (on_cpu, cpu), (on_gpu, gpu) = (compressed(args, device) for device in DEVICES)
    ratios = [on_gpu[name] / on_cpu[name] for name in on_cpu]
    return {
        "cpu": cpu,
        "cuda": gpu,
        "perplexity_ratio": gpu["perplexity"] / cpu["perplexity"],
        "loss_ratio": {**results.spread(ratios), "mean": statistics.mean(ratios)},
        "layers": len(ratios),
    }


def compare_layer(name: str, w: torch.Tensor, gram: torch.Tensor, rank: int) -> dict[str, Any]:
    losses = {}
    for device in DEVICES:
        found, _ = ours(w.to(device), gram.to(device), rank, {})
        losses[device] = loss_f64(w.cpu(), found.cpu(), gram.cpu())
    return {"layer": name, "shape": list(w.shape), **losses, "ratio": losses["cuda"] / losses["cpu"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--layers", type=Path)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--window-tokens", type=int, default=512)
    parser.add_argument("--evaluation-windows", type=int, default=24)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    if args.layers:
        rows = [compare_layer(name, w, gram, args.rank) for name, w, gram, _ in load_layers(args.layers, NAMES, "cpu")]
        print("layers", results.spread([row["ratio"] for row in rows]), flush=True)
    model = compare_model(args)
    print("model", model, flush=True)
    if args.out:
        results.write(args.out, "cuda", rows, model=model, rank=args.rank, pattern="2:4")


if __name__ == "__main__":
    main()
