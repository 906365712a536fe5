"""Every method here against its authors' released code: seconds and loss on the same W and H, in the same run.

    python bench/bench_methods.py [LAYERS] --authors CHECKOUT [--methods alps,oats,...] [--pattern 2:4] [--rank 32]
        [--shapes 4096x4096] [--iterations 80] [--authors-iterations 3] [--device cpu] [--out FILE]

LAYERS is a folder written by bench/layers.py; --shapes adds synthetic layers. A method is a name of bench/authors.py;
the part behind "-" is the pruner inside. Damping and iterations are the same on both sides. Losses are recomputed here:
tr(E H E^T) / tr(W H W^T) in f64 with the undamped Gram matrix. Theirs prints its loss in every iteration of some
methods, two products more than it needs.

--authors-iterations K runs the alternating methods of the authors with 1 and with K iterations only, and ours with K
beside, whose losses are compared; their time at --iterations is extrapolated.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

import authors
import results
import torch
from bench_solvers import load_layers, loss_f64, synthetic_layers, timed
from torch import Tensor

import sparlow

DAMPING = (0.005, 0.005)
DEFAULT_ITERATIONS = 80  # of alternating methods, theirs and ours


def alternates(method: str) -> bool:
    return authors.COUNTERPARTS[method] in authors.ITERATED


def ours(w: Tensor, gram: Tensor, method: str, args: argparse.Namespace, iterations: int) -> tuple[Tensor, Any]:
    name, _, pruner = method.partition("-")
    options: dict[str, Any] = {"pruner": pruner} if pruner else {}
    if alternates(method):
        options["iterations"] = iterations
    if alternates(method) and args.published:
        known = sparlow.method_info(name).options
        options |= {option: 0 for option in ("momentum", "refit_steps") if option in known}
    rank = args.rank if sparlow.method_info(name).low_rank else 0
    result = sparlow.decompose(
        [w], gram, method=name, pattern=args.pattern, ranks=[rank], damping=sparlow.Damping(*DAMPING), options=options
    )[0]
    return result.s + result.u @ result.v, result.report


def bench(name: str, w: Tensor, gram: Tensor, tokens: int, method: str, args: argparse.Namespace) -> dict[str, Any]:
    baseline = authors.Baseline(args.module, w, gram, tokens, args.rank)
    few = args.authors_iterations if alternates(method) else None
    ours(w, gram, method, args, 1)  # loads kernels and fills the memory pool
    seconds = [timed(args.device, lambda: ours(w, gram, method, args, args.iterations))[0] for _ in range(args.repeats)]
    compared, report = ours(w, gram, method, args, few or args.iterations)
    if not alternates(method):  # their first call loads libraries
        baseline.run(method, args.pattern, DAMPING)
    first = timed(args.device, lambda: baseline.run(method, args.pattern, DAMPING, 1))[0] if few else 0.0
    theirs, found = timed(args.device, lambda: baseline.run(method, args.pattern, DAMPING, few or args.iterations))
    step = (theirs - first) / (few - 1) if few else None
    if step is not None:
        theirs = first + (args.iterations - 1) * step
    loss, loss_theirs, median = loss_f64(w, compared, gram), loss_f64(w, found, gram), results.spread(seconds)["median"]
    row: dict[str, Any] = {"method": method, "layer": name, "shape": list(w.shape), "seconds": results.spread(seconds)}
    row |= {"authors_seconds": theirs, "speedup": theirs / median}
    row |= {"loss": loss, "authors_loss": loss_theirs, "loss_ratio": loss / loss_theirs}
    if alternates(method):
        row |= {"iterations": args.iterations, "seconds_per_iteration": median / args.iterations}
        row |= {"authors_seconds_per_iteration": step or theirs / args.iterations}
    if few:
        row["iterations_of_the_losses"] = few
    return row | {"status": report.status}


def print_row(row: dict[str, Any]) -> None:
    line = f"{row['layer']:18s} {row['shape'][0]:5d}x{row['shape'][1]:<5d} {row['method']:22s}"
    line += f" ours {row['seconds']['median']:9.4f} s  authors {row['authors_seconds']:9.3f} s  {row['speedup']:7.1f}x"
    print(f"{line}  loss {row['loss']:.6f} authors {row['authors_loss']:.6f} ratio {row['loss_ratio']:.4f}", flush=True)


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per method: geometric means and worst cases over the layers."""
    summary = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]

        def mean(key: str, own: list[dict[str, Any]] = own) -> float:
            return math.exp(sum(math.log(row[key]) for row in own) / len(own))

        summary[method] = {"layers": len(own), "speedup": mean("speedup"), "loss_ratio": mean("loss_ratio")}
        summary[method] |= {"worst_loss_ratio": max(row["loss_ratio"] for row in own)}
        summary[method] |= {"worst_speedup": min(row["speedup"] for row in own)}
        print(method, {key: round(value, 4) for key, value in summary[method].items()})
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", type=Path, nargs="?")
    parser.add_argument("--authors", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(authors.COUNTERPARTS))
    parser.add_argument("--pattern", default="2:4")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=DEFAULT_ITERATIONS)
    parser.add_argument("--authors-iterations", type=int)
    parser.add_argument("--published", action="store_true", help="alternating methods without momentum and refit")
    parser.add_argument("--shapes", default="")
    parser.add_argument("--names", default="q_proj,gate_proj,down_proj")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    args.module = authors.load(args.authors)
    real = load_layers(args.layers, args.names.split(","), args.device) if args.layers else iter(())
    rows = []
    for name, w, gram, tokens in itertools.chain(real, synthetic_layers(args.shapes, args.device)):
        for method in args.methods.split(","):
            rows.append(bench(name, w, gram, tokens, method, args))
            print_row(rows[-1])
            if args.out:  # long runs keep what they have
                facts = {"pattern": args.pattern, "rank": args.rank, "iterations": args.iterations, "damping": DAMPING}
                results.write(args.out, args.device, rows, **facts)
    summary = summarise(rows)
    if args.out:
        facts = {"pattern": args.pattern, "rank": args.rank, "iterations": args.iterations, "damping": DAMPING}
        results.write(args.out, args.device, rows, **facts, summary=summary)


if __name__ == "__main__":
    main()
