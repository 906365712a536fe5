"""Matching on a real model: perplexity of variants of a recipe, compressed from the same calibration tokens.

    python bench/bench_matching.py MODEL CALIBRATION VARIANTS [--blocks 6] [--evaluation FILE] [--authors CHECKOUT]
        [--out FILE]

VARIANTS is a JSON file (or text) of an object: name -> changes to the recipe, for instance
{"none": {}, "default": {"matching": true}}; or the word `methods`: every method without and with matching. The first
windows of CALIBRATION calibrate; the rest of it is the held-out text on which settings are chosen. With --evaluation,
perplexity is also taken on a text that chose nothing. With --authors, a checkout of mazumder-lab/3BASiL, their own code
compresses and matches the same blocks on the same windows in the same process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import authors_matching
import results
import torch
import transformers

import sparlow
from sparlow.evaluate import encode, evaluate
from sparlow.precision import lent_module


def texts(args: argparse.Namespace) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Calibration windows, and the token streams perplexity is taken on."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    ids = encode(tokenizer, Path(args.calibration).read_text())
    used = args.windows * args.window_tokens
    streams = {"held_out": ids[used:]}
    if args.evaluation:
        streams["evaluation"] = encode(tokenizer, Path(args.evaluation).read_text())
    return ids[:used].reshape(args.windows, args.window_tokens), streams


def perplexities(model: Any, streams: dict[str, torch.Tensor], args: argparse.Namespace) -> dict[str, float]:
    """In float32 on the device."""
    with lent_module(model, torch.float32, args.device):
        return {
            name: evaluate(model, ids.to(args.device), args.window_tokens, 4, limit=args.limit).perplexity
            for name, ids in streams.items()
        }


def run(name: str, changes: dict[str, Any], windows: torch.Tensor, args: argparse.Namespace) -> tuple[Any, dict]:
    include = []
    if args.blocks is not None:
        numbers = "|".join(str(index) for index in range(args.blocks))
        include = [rf"re:.*\.layers\.({numbers})\..*"]
    base = {
        "rank": args.rank,
        "device": args.device,
        "include": include,
        "calibration": {"windows": args.windows, "window_tokens": args.window_tokens},
    }
    recipe = sparlow.Recipe.from_dict({**base, **changes})
    started = time.perf_counter()
    compressed = sparlow.compress(args.model, recipe, tokens=windows)
    row = {
        "name": name,
        "changes": changes,
        "seconds": time.perf_counter() - started,
        "solver_seconds": sum(layer.seconds for layer in compressed.layers),
        "matching_seconds": sum(block.seconds for block in compressed.matching),
        "linear_bytes": sum(layer.stored_bytes for layer in compressed.layers),
        "blocks": [dataclasses.asdict(block) for block in compressed.matching],
    }
    return compressed.model, row


def read_variants(text: str) -> dict[str, dict[str, Any]]:
    if text != "methods":
        return json.loads(Path(text).read_text() if text.endswith(".json") else text)
    variants: dict[str, dict[str, Any]] = {}
    for method in sparlow.methods():
        changes = {"method": method.name} | ({} if method.low_rank else {"rank": 0})
        variants |= {method.name: changes, f"{method.name} matched": {**changes, "matching": True}}
    return variants


def add_texts(parser: argparse.ArgumentParser) -> None:
    """The options that say which model, on which text, and where figures go."""
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("--evaluation")
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--window-tokens", type=int, default=2048)
    parser.add_argument("--limit", type=int, help="windows that perplexity is taken on (default: all)")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_texts(parser)
    parser.add_argument("variants")
    parser.add_argument("--dense", action="store_true", help="also the dense model")
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--only", help="names of variants, with ; between them")
    args = parser.parse_args()
    variants = read_variants(args.variants)
    windows, streams = texts(args)
    rows: list[dict[str, Any]] = []
    if args.dense:
        model = transformers.AutoModelForCausalLM.from_pretrained(args.model)
        rows.append({"name": "dense", **perplexities(model, streams, args)})
        print(rows[-1], flush=True)
    for name in args.only.split(";") if args.only else variants:
        model, row = run(name, variants[name], windows, args)
        keep(rows, row | perplexities(model, streams, args), args)
    if args.authors:
        pipeline = authors_matching.load(args.authors)
        model, row = authors_matching.run(
            pipeline, args.model, windows, blocks=args.blocks, rank=args.rank, device=args.device
        )
        keep(rows, row | perplexities(model, streams, args), args)


def keep(rows: list[dict[str, Any]], row: dict[str, Any], args: argparse.Namespace) -> None:
    """Print the row and write all so far: a long run that is stopped leaves what it has."""
    rows.append(row)
    ours = [b for b in row["blocks"][:6] if "held_out_before" in b]
    losses = [f"{b['held_out_before']:.4f}>{b['held_out_after']:.4f}@{b['best_epoch']}" for b in ours]
    print({key: value for key, value in row.items() if key not in ("blocks", "changes")}, *losses, flush=True)
    if args.out:
        results.write(args.out, args.device, rows, rank=args.rank, windows=args.windows, blocks=args.blocks)


if __name__ == "__main__":
    main()
