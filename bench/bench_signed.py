"""SLaB and the joint solver on real layers at SLaB's byte budget: loss of the latter over loss of the former.

    python bench/bench_signed.py --layers DIR [--budget 0.5] [--repeats 3] [--device cpu] [--out FILE]

DIR holds the files of bench/layers.py. Both are given the budget of the paper, a sign counted as one bit of 16, and
2:4; slab starts as published and from Wanda's support. Same terms, same bytes; losses are those of the reports, in f64.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import results
import torch
from torch import Tensor

import sparlow
from sparlow.budget import closed_pattern, sign_share

RUNS: dict[str, tuple[str, dict[str, float]]] = {
    "slab": ("slab", {}),
    "slab, sparse first": ("slab", {"sparse_first": 1}),
    "slab_joint": ("slab_joint", {}),
}


def layers(folder: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    for path in sorted(folder.glob("block*.pt"), key=lambda p: int(p.stem.removeprefix("block"))):
        content = torch.load(path)
        for name, w in content["weights"].items():
            yield f"{path.stem}.{name}", w.float(), content["grams"][content["inputs"][name]].float()


def solve(w: Tensor, gram: Tensor, pattern: str, label: str) -> sparlow.Report:
    method, options = RUNS[label]
    return sparlow.decompose([w], gram, method=method, pattern=pattern, ranks=[0], options=options)[0].report


def bench_layer(name: str, w: Tensor, gram: Tensor, pattern: str, repeats: int) -> dict[str, Any]:
    row: dict[str, Any] = {"layer": name, "shape": list(w.shape), "pattern": pattern}
    for label in RUNS:
        solve(w, gram, pattern, label)  # loads kernels and fills the memory pool
        reports = [solve(w, gram, pattern, label) for _ in range(repeats)]
        loss = reports[0].relative_loss
        seconds = results.spread([report.seconds for report in reports])
        row[label] = {"loss": loss, "seconds": seconds, "of_slab": loss / row["slab"]["loss"] if "slab" in row else 1.0}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for name, w, gram in layers(args.layers):
        share = sign_share(*w.shape, 1, 16)
        for pattern in (closed_pattern(name, "@row", args.budget, share, tuple(w.shape)), "2:4"):
            rows.append(bench_layer(name, w.to(args.device), gram.to(args.device), pattern, args.repeats))
            print(
                name, pattern, *(f"{k} {v['loss']:.3e} ({v['of_slab']:.3f})" for k, v in rows[-1].items() if k in RUNS)
            )
    summary = {}
    for kind in ("@row", "2:4"):
        ratios = [row["slab_joint"]["of_slab"] for row in rows if row["pattern"].endswith(kind)]
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        summary[kind] = {"layers": len(ratios), "geometric_mean": mean, "worst": max(ratios)}
    print(summary)
    if args.out:
        results.write(args.out, args.device, rows, budget=args.budget, summary=summary)


if __name__ == "__main__":
    main()
