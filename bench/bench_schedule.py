"""Loss against iterations: the solver's penalty schedule beside the authors', on real or synthetic layers.

    python bench/bench_schedule.py [LAYERS] [--shapes 4096x4096] [--device cpu] [--out FILE]

One point is one whole solve that was given that many iterations, seconds and f64 loss of its result, because a
geometric schedule spreads over the iterations it is given. `plain` is the solver without over-relaxation and momentum.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import results
from bench_solvers import load_layers, loss_f64, synthetic_layers, timed
from torch import Tensor

import sparlow

COUNTS = {
    "threebasil": ("iterations", (10, 16, 24, 40, 60, 100, 150, 250), {}),
    "plain": ("iterations", (10, 16, 24, 40, 60, 100, 150, 250), {"relaxation": 1.0, "momentum": 0.0}),
    "threebasil_published": ("max_iterations", (20, 40, 60, 100, 150, 250, 2000), {}),
}


def point(w: Tensor, gram: Tensor, rank: int, method: str, options: Mapping[str, float], device: str) -> dict[str, Any]:
    def solve() -> sparlow.Decomposition:
        return sparlow.decompose([w], gram, method=method, pattern="2:4", ranks=[rank], options=options)[0]

    seconds, found = timed(device, solve)
    loss = loss_f64(w, found.s + found.u @ found.v, gram)
    return {"iterations": found.report.iterations, "seconds": seconds, "loss": loss}


def curves(w: Tensor, gram: Tensor, args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for name, (option, counts, more) in COUNTS.items():
        method = "threebasil" if name == "plain" else name
        found[name] = [point(w, gram, args.rank, method, {**more, option: n}, args.device) for n in counts]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", type=Path, nargs="?")
    parser.add_argument("--shapes", default="")
    parser.add_argument("--names", default="q_proj,up_proj,down_proj")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    real = load_layers(args.layers, args.names.split(","), args.device) if args.layers else iter(())
    rows = []
    for name, w, gram, _ in itertools.chain(real, synthetic_layers(args.shapes, args.device)):
        row = {"layer": name, "shape": list(w.shape), "curves": curves(w, gram, args)}
        rows.append(row)
        for curve, points in row["curves"].items():
            print(name, curve, " ".join(f"{p['iterations']}:{p['loss']:.5f}" for p in points), flush=True)
    if args.out:
        results.write(args.out, args.device, rows, rank=args.rank, pattern="2:4")


if __name__ == "__main__":
    main()
