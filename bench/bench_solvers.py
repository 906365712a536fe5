"""3BASiL here against its authors' released code: seconds and loss on the same W and H, in the same run.

    python bench/bench_solvers.py [LAYERS] [--shapes 1024x4096,...] [--authors CHECKOUT] [--device cpu] [--out FILE]

LAYERS is a folder written by bench/layers.py; --shapes adds synthetic layers (bench/synthetic.py). CHECKOUT is a
checkout of the authors' repository (mazumder-lab/3BASiL); without it only ours runs. The loss of both is recomputed
here: tr(E H E^T) / tr(W H W^T) in f64 with the undamped Gram matrix.

The floor of an iteration is the larger of one d_out x d_in x d_in product (f32 on the CPU, f16 on a GPU) and the state
it must move (w, t, velocity and mask read, the last three written, 21 bytes a weight, and the smoother once), both at
the rates this machine reaches in a plain product and a plain copy.
"""

from __future__ import annotations

import argparse
import itertools
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
import synthetic

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


def best_seconds(device: str, call: Callable[[], Any]) -> float:
    """Best of five means over ten calls in a row."""
    return min(timed(device, lambda: [call() for _ in range(10)])[0] for _ in range(5)) / 10


def iteration_floor(w: Tensor, gram: Tensor, device: str) -> dict[str, float]:
    """Seconds that one iteration cannot undercut, by arithmetic and by bytes."""
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    left, right, copied = w.to(dtype), gram.to(dtype), torch.empty_like(gram)
    bandwidth = 2 * gram.nbytes / best_seconds(device, lambda: copied.copy_(gram))
    moved = 21 * w.numel() + right.nbytes
    product = best_seconds(device, lambda: left @ right)
    return {
        "product": product,
        "bytes": moved / bandwidth,
        "bandwidth": bandwidth,
        "flops": 2 * w.numel() * w.shape[1] / product,
    }


def kernel_times(call: Callable[[], Any], iterations: int) -> dict[str, float]:
    """Microseconds an iteration spends in each device kernel, largest first; setup and refit spread over all."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as record:
        call()
        torch.cuda.synchronize()
    events = sorted(record.key_averages(), key=lambda event: -event.device_time_total)
    return {
        event.key[:90]: event.device_time_total / iterations for event in events[:24] if event.device_time_total > 0
    }


def bench_layer(
    name: str, w: Tensor, gram: Tensor, tokens: int, args: argparse.Namespace, authors: Any, options: dict[str, float]
) -> dict[str, Any]:
    mine, theirs, losses_theirs, iterations = [], [], [], 0
    ours(w, gram, args.rank, options)  # loads kernels and fills the memory pool
    for repeat in range(args.repeats):  # interleaved, so that drifts of the clock hit both
        seconds, (w_mine, report) = timed(args.device, lambda: ours(w, gram, args.rank, options))
        mine.append(seconds)
        if authors is None or repeat >= args.authors_repeats:
            continue
        seconds, (w_theirs, iterations) = timed(args.device, lambda: authors(w, gram, args.rank, tokens))
        theirs.append(seconds)
        losses_theirs.append(loss_f64(w, w_theirs, gram))
    loss, median = loss_f64(w, w_mine, gram), results.spread(mine)["median"]
    floor = iteration_floor(w, gram, args.device)
    floor_seconds = report.iterations * max(floor["product"], floor["bytes"])
    row = {
        "layer": name,
        "shape": list(w.shape),
        "seconds": results.spread(mine),
        "loss": loss,
        "reported_loss_error": abs(report.relative_loss / loss - 1),
        "iterations": report.iterations,
        "iteration_floor": floor,
        "floor_seconds": floor_seconds,
        "fraction_of_floor": floor_seconds / median,
    }
    if theirs:
        median_theirs, loss_theirs = results.spread(theirs)["median"], results.spread(losses_theirs)["median"]
        row |= {
            "authors_seconds": results.spread(theirs),
            "speedup": median_theirs / median,
            "authors_loss": loss_theirs,
            "loss_ratio": loss / loss_theirs,
            "authors_iterations": iterations,
        }
    if args.breakdown and torch.device(args.device).type == "cuda":
        row["kernel_us_per_iteration"] = kernel_times(lambda: ours(w, gram, args.rank, options), report.iterations)
    return row


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
    line = f"{row['layer']:20s} {row['shape'][0]:6d}x{row['shape'][1]:<6d} ours {row['seconds']['median']:8.4f} s "
    line += f"({row['iterations']} it, floor {100 * row['fraction_of_floor']:.0f}%)  loss {row['loss']:.6f}"
    if "speedup" in row:
        line += f"  authors {row['authors_seconds']['median']:8.3f} s ({row['authors_iterations']} it)"
        line += f"  {row['speedup']:6.1f}x  loss {row['authors_loss']:.6f}, ratio {row['loss_ratio']:.4f}"
    print(line, flush=True)


def synthetic_layers(shapes: str, device: str) -> Iterator[tuple[str, Tensor, Tensor, int]]:
    for text in filter(None, shapes.split(",")):
        d_out, d_in = map(int, text.split("x"))
        yield ("synthetic", *synthetic.layer(d_out, d_in, device=device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", type=Path, nargs="?")
    parser.add_argument("--shapes", default="")
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--authors-repeats", type=int, default=1)
    parser.add_argument("--breakdown", action="store_true", help="microseconds of an iteration by kernel")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--names", default="q_proj,gate_proj,down_proj")
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE of ours, repeatable")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    authors = authors_solver(args.authors) if args.authors else None
    options = {name: float(value) for name, value in (text.split("=") for text in args.option)}
    real = load_layers(args.layers, args.names.split(","), args.device) if args.layers else iter(())
    rows = []
    for name, w, gram, tokens in itertools.chain(real, synthetic_layers(args.shapes, args.device)):
        rows.append(bench_layer(name, w, gram, tokens, args, authors, options))
        print_row(rows[-1])
    summary: dict[str, dict[str, float]] = {}
    if authors is not None:
        both = ("speedup", "loss_ratio")
        summary["mean"] = {key: math.exp(sum(math.log(row[key]) for row in rows) / len(rows)) for key in both}
        summary["worst"] = {
            "speedup": min(r["speedup"] for r in rows),
            "loss_ratio": max(r["loss_ratio"] for r in rows),
        }
        print(f"geometric mean {summary['mean']}; worst {summary['worst']}")
    if args.out:
        results.write(args.out, args.device, rows, rank=args.rank, pattern="2:4", options=options, **summary)


if __name__ == "__main__":
    main()
