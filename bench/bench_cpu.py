"""One compressed layer on the CPU against torch's dense layer and against unpacking it, weights not in cache.

python bench/bench_cpu.py --threads 2 --out bench/results/cpu.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results import write

from sparlow import _core, host, native, ops

CACHE_BYTES = 200e6
CALLS_OF_A_TURN = 8
SETTLE_SECONDS = 0.01


def sparse(d_out: int, d_in: int, format: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    keep = torch.rand(d_out, d_in // 4, 4).argsort(-1) < 2
    s = (torch.randn(d_out, d_in) * keep.reshape(d_out, d_in)).to(dtype)
    return native.nm24_pack(s) if format == "nm24" else native.bitmap_pack(s)


def medians(ways: dict[str, Callable[[int], Any]], repeats: int) -> dict[str, float]:
    """Microseconds; the ways take turns of a few calls, so that a disturbance meets all of them.

    Calls at the beginning of a turn are not counted: torch's threads spin for a while after their last product, and
    would take the cores of whatever comes next.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(max(1, repeats // CALLS_OF_A_TURN)):
        for name, run in ways.items():
            until, call = time.perf_counter() + SETTLE_SECONDS, 0
            while time.perf_counter() < until or call == 0:
                run(call)
                call += 1
            for k in range(call, call + CALLS_OF_A_TURN):
                begin = time.perf_counter()
                run(k)
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) * 1e6 for name, times in seconds.items()}


def measure(d_out: int, d_in: int, rank: int, format: str, dtype: torch.dtype, repeats: int) -> list[dict[str, Any]]:
    copies = max(2, int(CACHE_BYTES / (d_out * d_in * dtype.itemsize)))
    packed = [tuple(t.clone() for t in sparse(d_out, d_in, format, dtype)) for _ in range(copies)]
    dense = [torch.randn(d_out, d_in).to(dtype) for _ in range(copies)]
    u, v = torch.randn(d_out, rank).to(dtype), torch.randn(rank, d_in).to(dtype)
    unpack = ops.nm24_unpack if format == "nm24" else ops.bitmap_unpack
    linear = torch.nn.functional.linear
    rows = []
    for tokens in (1, 2, 4, 8, 16, 64, 256):
        x = torch.randn(tokens, d_in).to(dtype)

        def packed_way(i: int, x: torch.Tensor = x) -> torch.Tensor:
            return host.host_linear(x, *packed[i % copies], u, v, None, format)

        def unpacked_way(i: int, x: torch.Tensor = x) -> torch.Tensor:
            return linear(x, unpack(*packed[i % copies], d_in)) + linear(linear(x, v), u)

        def dense_way(i: int, x: torch.Tensor = x) -> torch.Tensor:
            return linear(x, dense[i % copies])

        with torch.inference_mode():
            ways = {"packed": packed_way, "dense": dense_way, "unpacked": unpacked_way}
            us = medians(ways, repeats if tokens < 64 else repeats // 4)
        row = {"d_out": d_out, "d_in": d_in, "rank": rank, "format": format, "dtype": str(dtype)[6:], "tokens": tokens}
        row |= {f"{name}_us": round(value, 1) for name, value in us.items()}
        row |= {"against_dense": round(us["dense"] / us["packed"], 2)}
        row |= {"against_unpacked": round(us["unpacked"] / us["packed"], 2)}
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--shapes", nargs="+", default=["4096x4096", "1536x576"], help="d_out x d_in")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--formats", nargs="+", default=["nm24", "bitmap"])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32", "float16"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    _core.set_num_threads(arguments.threads)
    rows = []
    for shape in arguments.shapes:
        d_out, d_in = map(int, shape.split("x"))
        for dtype in arguments.dtypes:
            for format in arguments.formats:
                rows += measure(d_out, d_in, arguments.rank, format, getattr(torch, dtype), arguments.repeats)
    if arguments.out is not None:
        write(arguments.out, "cpu", rows)


if __name__ == "__main__":
    main()
