"""Forward passes of compressed layers on a GPU against dense cuBLAS and torch's own 2:4, in the same run.

    python bench/bench_forward.py [--shapes 4096x4096,...] [--tokens 1,2,...] [--rank 64] [--formats nm24,bitmap,...]

Weights are cold (copies take turns through more than 400 MB), calls are CUDA graphs which take turns too, so that all
meet the same clock, times medians in microseconds and the low-rank part is included everywhere. Formats: nm24, bitmap
(half of the entries kept), and with "+1" a signed term of rank one. For 2:4, `torch_us` is cuSPARSELt through torch
with its searched algorithm, then x Vᵀ and an addition of the product with Uᵀ, `cusparselt_us` its product with S alone;
the result file has the version. `limit_us` is the larger of bytes at 3.35 TB/s and flops at 989 TFLOP/s (twice that for
a 2:4 part); `of_limit` what we reach of it; `spreads_us` least and most: dense, ours, torch, cuSPARSELt. Errors
are relative to float64 of the same stored numbers. One JSON line a measurement.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import results
import torch
from torch import Tensor
from torch.nn import functional

from sparlow import benchmark
from sparlow.cli.bench import parse_shape, parse_tokens
from sparlow.layers import SparseLowRankLinear

SHAPES = "4096x4096,6144x4096,1024x4096,14336x4096,28672x4096,4096x14336"
TOKENS = "1,2,4,8,16,32,48,64,65,96,128,192,256,384,512,768,1024,2048,4096,8192"
BANDWIDTH, FLOPS = 3.35e12, 989e12
DEVICE = torch.device("cuda")


def per_call(contenders: list[list[Any]]) -> list[dict[str, float]]:
    """For each contender microseconds of one of its calls, which take turns: median, minimum, maximum."""

    def run(calls: list[Any]) -> None:
        for _ in range(max(1, 24 // len(calls))):
            for call in calls:
                call()

    times = benchmark.alternating([partial(run, calls) for calls in contenders], DEVICE, 25)
    count = [max(1, 24 // len(calls)) * len(calls) for calls in contenders]
    return [results.spread([us / n for us in of_run]) for of_run, n in zip(times, count, strict=True)]


def limit_us(layer: SparseLowRankLinear, tokens: int) -> float:
    both = layer.out_features + layer.in_features
    moved = layer.stored_bytes + 2 * tokens * both
    plain = layer.format == "nm24" and layer.sign_rank == 0
    work = 2 * tokens * (layer.out_features * layer.in_features * (0.5 if plain else 1) + layer.rank * both)
    return 1e6 * max(moved / BANDWIDTH, work / FLOPS)


def error(y: Tensor, want: Tensor) -> float:
    return float((y.double() - want).norm() / want.norm())


class TorchSparse:
    """What torch offers: cuSPARSELt for S, two more products for the rest."""

    def __init__(self, layers: list[SparseLowRankLinear]) -> None:
        self.layers = layers
        self.s = [torch._cslt_compress(layer.sparse_dense()) for layer in layers]
        self.factors = [(s["low_rank_u"].T, s["low_rank_v"].T) for s in (layer.stored() for layer in layers)]

    def calls(self, x: Tensor, whole: bool) -> list[Any]:
        """One call a layer: all of it, or S alone."""
        found = torch._cslt_sparse_mm_search(self.s[0], x.T, transpose_result=True)

        def call(i: int) -> Tensor:
            u, v = self.factors[i]
            y = torch._cslt_sparse_mm(self.s[i], x.T, transpose_result=True, alg_id=found)
            return torch.addmm(y, x @ v, u) if whole else y

        return [lambda i=i: call(i) for i in range(len(self.s))]


def measure_shape(
    d_out: int, d_in: int, rank: int, kind: str, tokens: list[int], accurate: bool
) -> list[dict[str, Any]]:
    format, _, sign_rank = kind.partition("+")
    sizes = (d_out, d_in, rank, torch.bfloat16, DEVICE, format, int(sign_rank or 0))
    copies = benchmark.copies_of(d_out, d_in, torch.bfloat16, DEVICE)
    layers = [benchmark.random_layer(*sizes) for _ in range(copies)]
    dense = [
        torch.randn(d_out, d_in, device=DEVICE).bfloat16() for _ in range(max(2, int(4e8 / (2 * d_out * d_in)) + 1))
    ]
    theirs = TorchSparse(layers) if kind == "nm24" else None
    exact = layers[0].dense_weight().double() if accurate else None
    return [_measure(layers, dense, theirs, exact, count) for count in tokens]


def _measure(
    layers: list[SparseLowRankLinear],
    dense: list[Tensor],
    theirs: TorchSparse | None,
    exact: Tensor | None,
    tokens: int,
) -> dict[str, Any]:
    spec = layers[0].spec
    x = torch.randn(tokens, spec.d_in, device=DEVICE).bfloat16()
    contenders: list[list[Any]] = [
        [lambda w=w: functional.linear(x, w) for w in dense],
        [lambda layer=layer: layer(x) for layer in layers],
    ]
    if theirs is not None and tokens % 8 == 0:
        contenders += [theirs.calls(x, whole) for whole in (True, False)]
    spreads = per_call(contenders)
    dense_us, us, *others = (times["median"] for times in spreads)
    torch_us, cusparselt_us = others or (None, None)
    limit = limit_us(layers[0], tokens)
    row = {
        "format": spec.format + (f"+{spec.sign_rank}" if spec.sign_rank else ""),
        "d_out": spec.d_out,
        "d_in": spec.d_in,
        "rank": spec.rank,
        "tokens": tokens,
        "kernel": benchmark.kernel_of(layers[0], tokens),
        "dense_us": round(dense_us, 2),
        "us": round(us, 2),
        "spreads_us": [[round(times["min"], 2), round(times["max"], 2)] for times in spreads],
        "times_dense": round(dense_us / us, 3),
        "torch_us": torch_us and round(torch_us, 2),
        "times_torch": torch_us and round(torch_us / us, 3),
        "cusparselt_us": cusparselt_us and round(cusparselt_us, 2),
        "limit_us": round(limit, 2),
        "of_limit": round(limit / us, 3),
        "gbytes_per_s": round(1e-3 * layers[0].stored_bytes / us),
        "tflops_dense_equivalent": round(2e-6 * tokens * spec.d_out * spec.d_in / us),
    }
    if exact is not None and tokens <= 1024:
        w = exact.bfloat16()
        row["error"] = error(layers[0](x), x.double() @ exact.T)
        row["dense_error"] = error(functional.linear(x, w), x.double() @ w.double().T)
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--tokens", default=TOKENS)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--formats", default="nm24")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*cslt.*")
    torch.manual_seed(0)
    rows = []
    with torch.no_grad():
        for kind in args.formats.split(","):
            for shape in args.shapes.split(","):
                d_out, d_in = parse_shape(shape)
                rows += measure_shape(d_out, d_in, args.rank, kind, parse_tokens(args.tokens), d_out * d_in <= 2**26)
                torch.cuda.empty_cache()
    if args.out:
        version = torch.backends.cusparselt.version()
        results.write(args.out, "cuda", rows, rank=args.rank, cusparselt=version)


if __name__ == "__main__":
    main()
