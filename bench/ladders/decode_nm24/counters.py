"""What counters.sh left in a folder as a result file: python counters.py FOLDER --gpu NAME --cuda VERSION > FILE.

Medians of a shape's launches. The bytes that must be read are packed weights, factors and x.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

RANK, SECTOR = 64, 32
COMMAND = (
    "bench/ladders/decode_nm24/counters.sh (ncu --clock-control none --csv --metrics ... "
    '-k "regex:decode_kernel|wide_kernel" --launch-skip 2 --launch-count 3 ladder D_OUT D_IN TOKENS)'
)
NOTE = (
    "2:4 + rank 64 as one layer, bf16; caches cold, clocks left alone; us: the profiler's, launch and drain included; "
    "needed_bytes: packed weights, factors and x, not y; gb_per_s: read_bytes in us; dram_percent: reads and writes as "
    "a share of the memory's peak; l2_read_bytes: of the sectors L2 counts as read; sm_percent, warps_active_percent: "
    "of the peak"
)
UNITS = {"ns", "byte", "%", "sector", "register/thread", ""}


def needed_bytes(d_out: int, d_in: int, tokens: int) -> int:
    return 2 * (9 * d_out * d_in // 16 + RANK * (d_out + d_in) + tokens * d_in)


def measured(text: str) -> tuple[str, int, dict[str, float]]:
    """The kernel's name, its number of launches and the median of each metric."""
    launches = list(csv.DictReader(text[text.index('"ID"') :].splitlines()))
    values: defaultdict[str, list[float]] = defaultdict(list)
    for launch in launches:
        if launch["Metric Unit"] not in UNITS:
            sys.exit(f"{launch['Metric Name']} in {launch['Metric Unit']}: run ncu with --print-units base")
        values[launch["Metric Name"]].append(float(launch["Metric Value"].replace(",", "")))
    (kernel,) = {name for launch in launches for name in re.findall(r"(\w+)_kernel", launch["Kernel Name"])}
    (count,) = {len(v) for v in values.values()}
    return kernel, count, {name: statistics.median(v) for name, v in values.items()}


def row(path: Path) -> dict[str, Any]:
    d_out, d_in, tokens = map(int, path.stem.split("-")[1:])
    kernel, launches, metric = measured(path.read_text())
    us, read = metric["gpu__time_duration.sum"] / 1000, metric["dram__bytes_read.sum"]
    needed = needed_bytes(d_out, d_in, tokens)
    return {
        "d_out": d_out,
        "d_in": d_in,
        "tokens": tokens,
        "kernel": kernel,
        "launches": launches,
        "us": round(us, 2),
        "read_bytes": round(read),
        "needed_bytes": needed,
        "read_over_needed": round(read / needed, 4),
        "gb_per_s": round(read / us * 1e-3),
        "dram_percent": round(metric["dram__throughput.avg.pct_of_peak_sustained_elapsed"], 1),
        "written_bytes": round(metric["dram__bytes_write.sum"]),
        "l2_read_bytes": round(metric["lts__t_sectors_op_read.sum"] * SECTOR),
        "sm_percent": round(metric["sm__throughput.avg.pct_of_peak_sustained_elapsed"], 1),
        "warps_active_percent": round(metric["sm__warps_active.avg.pct_of_peak_sustained_active"], 1),
        "registers": round(metric["launch__registers_per_thread"]),
        "blocks": round(metric["launch__grid_size"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpu", required=True)
    parser.add_argument("--cuda", required=True)
    args = parser.parse_args()
    rows = sorted(map(row, args.folder.glob("ncu-*.csv")), key=lambda r: (r["d_out"], r["d_in"], r["tokens"]))
    environment = {"gpu": args.gpu, "cuda": args.cuda}
    content = {"command": COMMAND, "environment": environment, "rank": RANK, "dtype": "bfloat16", "note": NOTE}
    print(json.dumps({**content, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
