"""Every method of the registry on one whole model: perplexity on held-out text, bytes, seconds.

    python bench/bench_table.py MODEL --calibration TEXT --evaluation TEXT [--settings 2:4,2:4+r32] [--methods oats,...]
        [--device cuda] [--out FILE]

A setting is a pattern, with "+bB" for a budget of B of the parameters and "+rR" for a low-rank part of rank R:
"2:4+r32"; "0.375@row+b0.5", the rank fills the budget; "@row+b0.5" or "@row+b0.5+r16", the density does, signs counted
as one bit of sixteen. Methods that cannot do it are left out. A method with choices has a row for each, and one
with its authors' steps where the registry says how to get them ("0: as published"). Perplexity is token perplexity in
float32 on windows of the evaluation text; bytes are those of the linear layers as stored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import results
import torch

import sparlow
from sparlow.budget import OPEN_PATTERNS
from sparlow.dense import load_dense
from sparlow.evaluate import encode, perplexity
from sparlow.precision import lent_module

SETTINGS = "2:4,2:4+r32,4:8+r32,0.375@row+b0.5"
RANK_ZERO = ("threebasil", "slab_joint")  # worth a row without their low-rank part too


def size_of(setting: str) -> dict[str, Any]:
    """Recipe fields of a setting."""
    pattern, *parts = setting.split("+")
    given = {part[0]: float(part[1:]) for part in parts}
    fields: dict[str, Any] = {"pattern": pattern}
    if "b" in given:
        fields["budget"] = given["b"]
    if "r" in given or "b" not in given or pattern in OPEN_PATTERNS:
        fields["rank"] = int(given.get("r", 0))
    return fields


def variants(method: sparlow.MethodInfo) -> Iterator[tuple[str, dict[str, Any]]]:
    """Labels and options of the rows of a method."""
    choices = [(name, choice) for name, option in method.options.items() for choice in option.choices]
    published = {name: 0 for name, option in method.options.items() if option.doc.endswith("0: as published")}
    for name, choice in choices or [("", "")]:
        options = {name: choice} if name else {}
        label = f"{method.name}-{choice}" if name else method.name
        yield label, options
        if published and method.low_rank:
            yield f"{label} (published steps)", options | published


def cases(setting: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(label, method, options) of what can do a setting."""
    low_rank = size_of(setting).get("rank") != 0
    for method in sparlow.methods():
        if method.low_rank == low_rank:
            for label, options in variants(method):
                yield label, method.name, options
        elif method.name in RANK_ZERO:
            yield method.name, method.name, {}


class Table:
    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        model, tokenizer = load_dense(args.model)
        count = args.evaluation_windows * args.window_tokens
        self._tokens = encode(tokenizer, args.evaluation.read_text(encoding="utf-8"))[:count]
        self.dense = self._perplexity(model)

    def _perplexity(self, model: Any) -> float:
        with lent_module(model, torch.float32, self._args.device):
            return perplexity(model, self._tokens, self._args.window_tokens, 8)

    def row(self, setting: str, label: str, method: str, options: dict[str, Any]) -> dict[str, Any]:
        args = self._args
        windows = {"source": str(args.calibration), "windows": args.windows, "window_tokens": args.window_tokens}
        if args.iterations and "pruner" in options and "momentum" in sparlow.method_info(method).options:
            options = options | {"iterations": args.iterations}
        fields = {"method": method, "options": options, "device": args.device, "calibration": windows}
        result = sparlow.compress(args.model, sparlow.Recipe.from_dict(fields | size_of(setting)))
        losses = [record.relative_loss for record in result.layers]
        return {
            "setting": setting,
            "method": label,
            "options": options,
            "perplexity": self._perplexity(result.model),
            "bytes": sum(record.stored_bytes for record in result.layers),
            "dense_bytes": sum(record.dense_bytes for record in result.layers),
            "seconds": result.seconds,
            "mean_relative_loss": sum(losses) / len(losses),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--settings", default=SETTINGS)
    parser.add_argument("--methods", default="", help="labels that begin with one of these only")
    parser.add_argument("--without", default="", help="leave labels out that begin with one of these")
    parser.add_argument("--iterations", type=int, default=0, help="of methods that alternate with a pruner; 0: theirs")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--window-tokens", type=int, default=512)
    parser.add_argument("--evaluation-windows", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    wanted = tuple(args.methods.split(","))
    unwanted = tuple(filter(None, args.without.split(",")))
    table = Table(args)
    print(f"dense perplexity {table.dense:.3f}", flush=True)
    rows: list[dict[str, Any]] = []
    for setting in args.settings.split(","):
        for label, method, options in cases(setting):
            if not label.startswith(wanted) or label.startswith(unwanted):
                continue
            rows.append(table.row(setting, label, method, options))
            row = rows[-1]
            print(f"{setting:16s} {label:40s} perplexity {row['perplexity']:10.3f}  {row['bytes'] / 1e6:7.1f} MB "
                  f"{row['seconds']:7.1f} s  loss {row['mean_relative_loss']:.5f}", flush=True)  # fmt: skip
            if args.out:
                results.write(args.out, args.device, rows, dense_perplexity=table.dense)


if __name__ == "__main__":
    main()
