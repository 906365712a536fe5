"""The C++ runtime on random weights of Llama-3-8B's shape: compressed against its own dense mode, on one GPU.

python bench/bench_llama_8b.py --llama build/cpp/examples/llama/llama --out bench/results/llama-8b-h100.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from results import write


def run(llama: str, arguments: list[str]) -> dict[str, Any]:
    """The program's line of JSON; RuntimeError with its message for a failure."""
    done = subprocess.run([llama, "--bench", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def main() -> None:
    """A row for every number of slots: milliseconds of a step in both modes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama", required=True)
    parser.add_argument("--slots", default="1,8")
    parser.add_argument("--prompt", default="128,1024")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for slots in args.slots.split(","):
        for prompt in args.prompt.split(",") if slots == "1" else args.prompt.split(",")[:1]:
            shared = ["--random", "8b", "--device", "cuda", "--slots", slots, "--tokens", str(args.tokens)]
            shared += ["--bench-prompt", prompt, "--prefill", "1024"]
            dense, ours = run(args.llama, [*shared, "--dense"]), run(args.llama, shared)
            row: dict[str, Any] = {"slots": int(slots), "prompt": int(prompt)}
            for name in ("decode_ms", "decode_ms_p10", "decode_ms_p90", "prefill_ms"):
                row |= {name: ours[name], f"dense_{name}": dense[name]}
            row["decode_times_dense"] = dense["decode_ms"] / ours["decode_ms"]
            row["tokens_per_s"] = ours["decode_tokens_per_s"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    if args.out:
        write(args.out, "cuda", rows, shape="Llama-3-8B, random weights, bfloat16, 2:4 + rank 64")


if __name__ == "__main__":
    main()
