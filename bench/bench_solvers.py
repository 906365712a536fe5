"""3BASiL here against its authors' released code: seconds and loss on the same W and H, in the same run.

    python bench/bench_solvers.py LAYERS --authors CHECKOUT [--device cpu] [--rank 32] [--repeats 3] [--out FILE]

LAYERS is a folder written by bench/layers.py; CHECKOUT a checkout of the authors' repository (mazumder-lab/3BASiL).
The loss of both is recomputed here: tr(E H E^T) / tr(W H W^T) in f64 with the undamped Gram matrix. The floor is one
d_out x d_in x d_in product per iteration at the rate this machine reaches in one such product.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import results
import torch
from torch import Tensor

import sparlow

DAMPING = 0.005  # both coefficients, as in the authors' published commands


def synchronise(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: str, call: Callable[[], Any]) -> tuple[float, Any]:
    synchronise(device)
    start = time.perf_counter()
    value = call()
    synchronise(device)
    return time.perf_counter() - start, value


def loss_f64(w: Tensor, w_hat: Tensor, gram: Tensor) -> float:
    w, w_hat, gram = w.double(), w_hat.double(), gram.double()
    error = w - w_hat
    return float((error @ gram * error).sum() / (w @ gram * w).sum())


def authors_solver(checkout: Path) -> Callable[[Tensor, Tensor, int, int], tuple[Tensor, int]]:
    """Their preparation and solver for one layer, 2:4; returns the dense S + L and the number of iterations."""
    sys.path.insert(0, str(checkout))
    import compress

    iterations = 0

    def count(message: str, *args: Any) -> None:
        nonlocal iterations
        if message.startswith("3basil iters"):
            iterations = int(args[0]) + 1

    compress.logger.info = count

    def solve(w: Tensor, gram: Tensor, rank: int, tokens: int) -> tuple[Tensor, int]:
        h = gram * (2.0 / tokens)
        diagonal = torch.diag(h)
        h = h + torch.diag(DAMPING * diagonal + DAMPING * diagonal.mean())
        vectors, values, _ = torch.linalg.svd(h)
        inverse_root = (1 / values.sqrt()).unsqueeze(1)
        norms = torch.diag(h).sqrt() + 1e-9
        scaled = h / norms / norms.unsqueeze(1)
        eigenvalues, basis = torch.linalg.eigh(scaled.double())
        layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, device=w.device)
        a = torch.empty(rank, w.shape[1], device=w.device)
        torch.nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        b = torch.zeros(w.shape[0], rank, device=w.device)
        s, a, b = compress.threebasil(
            scaled, norms, eigenvalues, basis, w, a, b, h, inverse_root, vectors, layer, w.device,
            nm_n=2, nm_m=4, rho=0.1, rank=rank,
        )  # fmt: skip
        return s + b @ a, iterations

    return solve


def ours(w: Tensor, gram: Tensor, rank: int, options: dict[str, float]) -> tuple[Tensor, sparlow.Report]:
    result = sparlow.decompose([w], gram, method="threebasil", pattern="2:4", ranks=[rank], options=options)[0]
    return result.s + result.u @ result.v, result.report


def product_seconds(w: Tensor, gram: Tensor, device: str) -> float:
    """Best time of one d_out x d_in x d_in product in f32."""
    return min(timed(device, lambda: w @ gram)[0] for _ in range(20))


def bench_layer(
    name: str, w: Tensor, gram: Tensor, tokens: int, args: argparse.Namespace, authors: Any, options: dict[str, float]
) -> dict[str, Any]:
    mine, theirs = [], []
    for _ in range(args.repeats):  # interleaved, so that drifts of the clock hit both
        seconds, (w_mine, report) = timed(args.device, lambda: ours(w, gram, args.rank, options))
        mine.append(seconds)
        seconds, (w_theirs, iterations) = timed(args.device, lambda: authors(w, gram, args.rank, tokens))
        theirs.append(seconds)
    loss, loss_theirs = loss_f64(w, w_mine, gram), loss_f64(w, w_theirs, gram)
    median, median_theirs = results.spread(mine)["median"], results.spread(theirs)["median"]
    floor = report.iterations * product_seconds(w, gram, args.device)
    return {
        "layer": name,
        "shape": list(w.shape),
        "seconds": results.spread(mine),
        "authors_seconds": results.spread(theirs),
        "speedup": median_theirs / median,
        "loss": loss,
        "reported_loss_error": abs(report.relative_loss / loss - 1),
        "authors_loss": loss_theirs,
        "loss_ratio": loss / loss_theirs,
        "iterations": report.iterations,
        "authors_iterations": iterations,
        "floor_seconds": floor,
        "fraction_of_floor": floor / median,
    }


def load_layers(folder: Path, wanted: list[str], device: str) -> Iterator[tuple[str, Tensor, Tensor, int]]:
    files = sorted(folder.glob("block*.pt"), key=lambda path: int(path.stem.removeprefix("block")))
    if not files:
        raise SystemExit(f"no block*.pt in {folder}; write them with bench/layers.py")
    for path in files:
        block = torch.load(path, weights_only=True)
        for name in wanted:
            gram = block["grams"][block["inputs"][name]]
            yield f"{path.stem}.{name}", block["weights"][name].to(device), gram.to(device), block["tokens"]


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['layer']:20s} {row['shape'][0]:6d}x{row['shape'][1]:<6d} "
        f"authors {row['authors_seconds']['median']:8.3f} s ({row['authors_iterations']} it)  "
        f"ours {row['seconds']['median']:8.3f} s ({row['iterations']} it)  "
        f"{row['speedup']:6.1f}x  loss {row['loss']:.6f} / {row['authors_loss']:.6f} = {row['loss_ratio']:.4f}  "
        f"floor {100 * row['fraction_of_floor']:.0f}%",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", type=Path)
    parser.add_argument("--authors", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--names", default="q_proj,gate_proj,down_proj")
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE of ours, repeatable")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    authors = authors_solver(args.authors)
    options = {name: float(value) for name, value in (text.split("=") for text in args.option)}
    rows = []
    for name, w, gram, tokens in load_layers(args.layers, args.names.split(","), args.device):
        rows.append(bench_layer(name, w, gram, tokens, args, authors, options))
        print_row(rows[-1])
    mean = {key: math.exp(sum(math.log(row[key]) for row in rows) / len(rows)) for key in ("speedup", "loss_ratio")}
    worst = {"speedup": min(r["speedup"] for r in rows), "loss_ratio": max(r["loss_ratio"] for r in rows)}
    print(f"geometric mean {mean['speedup']:.1f}x, loss {mean['loss_ratio']:.4f}; worst {worst}")
    if args.out:
        results.write(
            args.out, args.device, rows, rank=args.rank, pattern="2:4", options=options, mean=mean, worst=worst
        )


if __name__ == "__main__":
    main()
