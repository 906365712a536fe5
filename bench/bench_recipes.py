"""A whole model under several recipes: perplexity, bytes, seconds, beside the dense model.

    python bench/bench_recipes.py MODEL CALIBRATION EVALUATION RECIPES [--only NAMES] [--device cuda] [--out FILE]

CALIBRATION and EVALUATION are text files. RECIPES is a YAML file: name -> recipe. The ratio is to the first one.
Perplexity is token perplexity in float32.
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import Any

import results
import torch
import yaml
from transformers import AutoTokenizer

import sparlow
from sparlow.dense import load_dense
from sparlow.evaluate import encode, evaluate
from sparlow.precision import lent_module
from sparlow.records import Silent


class Notes(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def run(model: str, recipe: sparlow.Recipe, score: Any) -> dict[str, Any]:
    notes = Notes()
    done = sparlow.compress(model, recipe, progress=notes)
    size = sum(x.d_out * x.d_in for x in done.layers)
    return {
        "perplexity": score(done.model),
        "stored_bytes": sum(x.stored_bytes for x in done.layers),
        "of_dense_bytes": sum(x.stored_bytes for x in done.layers) / sum(x.dense_bytes for x in done.layers),
        "values": sum(x.density * x.d_out * x.d_in + x.rank * (x.d_out + x.d_in) for x in done.layers) / size,
        "seconds": done.seconds,
        "notes": notes.lines,
        "layers": {x.name: [x.pattern, x.rank, x.relative_loss] for x in done.layers},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("recipes", type=Path)
    parser.add_argument("--only", help="names of recipes, with ; between them")
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    tokens = encode(AutoTokenizer.from_pretrained(args.model), args.evaluation.read_text(encoding="utf-8"))

    def score(model: Any) -> float:
        with lent_module(model, torch.float32, args.device):
            return evaluate(model, tokens, args.window, 8).perplexity

    rows: list[dict[str, Any]] = [{"name": "dense", "perplexity": score(load_dense(args.model)[0])}]
    recipes = yaml.safe_load(args.recipes.read_text(encoding="utf-8"))
    for name in args.only.split(";") if args.only else recipes:
        data = recipes[name]
        calibration = {"source": args.calibration} | data.pop("calibration", {})
        recipe = sparlow.Recipe.from_dict(data | {"device": args.device, "calibration": calibration})
        gc.collect()
        rows.append({"name": name, "recipe": data} | run(args.model, recipe, score))
        row, base = rows[-1], rows[1]
        ratio = row["perplexity"] / base["perplexity"]
        print(
            f"{name}: perplexity {row['perplexity']:.3f} ({ratio:.4f} of {base['name']}'s, "
            f"{row['perplexity'] / rows[0]['perplexity']:.3f} of dense), {row['of_dense_bytes']:.4f} of the bytes, "
            f"{row['values']:.4f} of the values, {row['seconds']:.1f} s",
            *row["notes"],
            sep="\n  ",
            flush=True,
        )
        if args.out:  # after every row: a long run that is stopped leaves what it has
            results.write(args.out, args.device, rows, window_tokens=args.window)


if __name__ == "__main__":
    main()
