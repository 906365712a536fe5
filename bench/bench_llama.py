"""The C++ runtime of cpp/examples/llama against the Python path: the same greedy tokens, and tokens a second.

python bench/bench_llama.py --llama build/cpp/examples/llama/llama --compressed OUT --dense MODEL --text FILE
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from results import write
from transformers import PreTrainedModel

import sparlow

Prompts = list[list[int]]


def prompts_of(folder: str, text: Path, count: int) -> Prompts:
    """Windows of 8 to 27 tokens from different places of a text."""
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(text.read_text(encoding="utf-8"))["input_ids"]
    step = len(tokens) // count
    return [tokens[i * step : i * step + 8 + i % 20] for i in range(count)]


@torch.no_grad()
def python_tokens(model: PreTrainedModel, prompts: Prompts, tokens: int) -> tuple[Prompts, list[list[float]]]:
    """Greedy tokens, and at each of them the distance of the two largest logits."""
    answers, margins = [], []
    for prompt in prompts:
        inputs = torch.tensor([prompt], device=model.device)
        out = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=tokens,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
        answers.append(out.sequences[0, len(prompt) :].tolist())
        best = [score[0].float().topk(2).values for score in out.scores]
        margins.append([float(pair[0] - pair[1]) for pair in best])
    return answers, margins


def run_llama(command: list[str]) -> str:
    """Its output; CalledProcessError with its message for a failure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])}: {done.stderr}")
    return done.stdout


def compare(args: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """One row: prompts whose tokens are all equal; where others part, how near the first two logits were."""
    prompts = prompts_of(args.compressed, args.text, args.prompts)
    model = sparlow.load(args.compressed, dtype=getattr(torch, dtype), verify=False, device=args.device)
    theirs, margins = python_tokens(model, prompts, args.tokens)
    command = [args.llama, args.compressed, "--dtype", dtype, "--tokens", str(args.tokens), "--device", args.device]
    for prompt in prompts:
        command += ["--prompt-ids", ",".join(map(str, prompt))]
    ours = [[int(token) for token in line.split(",")] for line in run_llama(command).splitlines()]
    parted = []
    for prompt, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        where = next((i for i, pair in enumerate(zip(mine, other, strict=False)) if pair[0] != pair[1]), None)
        if where is None and len(mine) != len(other):
            where = min(len(mine), len(other)) - 1
        if where is not None:
            parted.append({"prompt": prompt, "token": where, "python_margin": margins[prompt][where]})
    row = {"what": "greedy", "dtype": dtype, "device": args.device, "prompts": len(prompts), "tokens": args.tokens}
    return row | {"equal": len(prompts) - len(parted), "parted": parted}


@torch.no_grad()
def torch_decode(folder: str, dtype: str, prompt: int, tokens: int) -> float:
    """Median seconds of a token of the dense model in torch's eager mode with a growing cache."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    out = model(torch.arange(prompt)[None], use_cache=True)
    seconds = []
    for _ in range(tokens):
        begin = time.perf_counter()
        out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def ours(args: argparse.Namespace, folder: str, dtype: str) -> dict[str, Any]:
    """The bench line of the C++ program."""
    row: dict[str, Any] = json.loads(run_llama([args.llama, folder, "--bench", "--dtype", dtype]))
    return row


def decode(args: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """One row: tokens a second of the compressed model in C++ and of the dense one in both."""
    row: dict[str, Any] = {"what": "decode", "dtype": dtype, "threads": torch.get_num_threads(), "prompt": 128}
    row["compressed_tokens_per_s"] = ours(args, args.compressed, dtype)["decode_tokens_per_s"]
    row["torch_dense_tokens_per_s"] = 1 / torch_decode(args.dense, dtype, 128, 64)
    row["dense_tokens_per_s"] = ours(args, args.dense, dtype)["decode_tokens_per_s"]
    row["times_torch_dense"] = row["compressed_tokens_per_s"] / row["torch_dense_tokens_per_s"]
    return row


def main() -> None:
    """Print a row of JSON for every comparison; --out keeps them."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--llama", "--compressed", "--dense"):
        parser.add_argument(name, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=["greedy", "decode"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    dtypes = ["float32", "bfloat16"] if args.device == "cpu" else ["bfloat16"]
    rows: list[dict[str, Any]] = []
    jobs: list[tuple[str, Callable[[argparse.Namespace, str], dict[str, Any]]]] = [("greedy", compare)]
    if args.device == "cpu":
        jobs.append(("decode", decode))
    for what, job in jobs:
        for dtype in dtypes if args.only in (None, what) else []:
            rows.append(job(args, dtype))
            print(json.dumps(rows[-1]), flush=True)
    if args.out:
        write(args.out, args.device, rows)


if __name__ == "__main__":
    main()
