"""One block of Llama-3-8B's shape: our matching beside the authors', from the same compressed start.

    python bench/bench_matching_block.py [--authors CHECKOUT] [--windows 128] [--hidden 4096] [--out FILE]

Random weights, 2:4 + rank 64. Rows: no matching; the defaults; the authors' schedule in our trainer; their own code in
float32, as published. The loss is one for all: squared error over energy of the dense block's output on all windows, in
float32. Every row's start is compressed anew with the same seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
from pathlib import Path
from typing import Any

import authors_matching
import results
import torch
from bench_model import add_shape, random_model, reset_peak, torch_peak
from torch import Tensor, nn

import sparlow
from sparlow.layers import SparseLowRankLinear
from sparlow.models import replace_module
from sparlow.precision import lent_module

SCHEDULES: dict[str, Any] = {
    "no matching": None,
    "defaults": {},
    "the authors' schedule in our trainer": {
        "epochs": authors_matching.EPOCHS,
        "batch": authors_matching.CHUNK,
        "target": "compressed",
        "loss": "squared",
        "holdout": 0.008,
        "patience": 100,
    },
}


def start(args: argparse.Namespace) -> Any:
    """The model; its embeddings have unit size, so that the residual stream carries the block as in a trained model."""
    model = random_model(args)
    model.model.embed_tokens.weight.data.div_(model.config.initializer_range)
    return model


class Measure:
    """Inputs [windows, tokens, hidden] and dense outputs of the block, float32, in host memory."""

    def __init__(self, model: Any, tokens: Tensor, device: str) -> None:
        with torch.no_grad(), lent_module(model.model, torch.float32, device):
            self._device = device
            self.inputs = torch.stack([model.model.embed_tokens(window.to(device)).cpu() for window in tokens])
            positions = torch.arange(tokens.shape[1], device=device)[None]
            self.embeddings = model.model.rotary_emb(torch.empty(0, device=device), positions)
            self.targets = torch.stack([self._run(model.model.layers[0], x).cpu() for x in self.inputs])

    def loss(self, block: nn.Module) -> float:
        """Squared error over energy."""
        with torch.no_grad(), lent_module(block, torch.float32, self._device):
            pairs = zip(self.inputs, self.targets, strict=True)
            errors = [float((self._run(block, x) - y.to(self._device)).double().square().sum()) for x, y in pairs]
        return sum(errors) / sum(float(y.double().square().sum()) for y in self.targets)

    def _run(self, block: nn.Module, window: Tensor) -> Tensor:
        output = block(window[None].to(self._device), position_embeddings=self.embeddings)
        return (output if isinstance(output, Tensor) else output[0]).reshape(window.shape)


def ours(name: str, tokens: Tensor, args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    recipe = sparlow.Recipe(
        rank=args.rank,
        device=args.device,
        compute_dtype="bfloat16",
        calibration={"windows": args.windows, "window_tokens": args.window_tokens},
        matching=SCHEDULES[name],
    )
    model = start(args)
    reset_peak(args.device)
    done = sparlow.compress(model, recipe, tokens=tokens)
    row = {
        "name": name,
        "seconds": done.seconds,
        "matching_seconds": sum(record.seconds for record in done.matching),
        "torch_peak_gib": torch_peak(args.device),
        "matching": [dataclasses.asdict(record) for record in done.matching],
    }
    return done.model, row


def theirs(model: Any, measure: Measure, args: argparse.Namespace) -> dict[str, Any]:
    block = model.model.layers[0].to(args.device, torch.float32)
    for name, module in list(block.named_modules()):
        if isinstance(module, SparseLowRankLinear):
            replace_module(block, name, authors_matching.Adapted.of(module))
    pipeline = authors_matching.load(args.authors)
    reset_peak(args.device)
    row = {"name": "the authors' code", "before": measure.loss(block)}
    inputs, targets = measure.inputs.to(args.device), measure.targets.to(args.device)
    row |= authors_matching.match(pipeline, block, inputs, targets, measure.embeddings, args.authors_epochs)
    row["torch_peak_gib"] = torch_peak(args.device)
    return row | {"loss": measure.loss(block)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(parser)
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--authors-epochs", type=int, default=authors_matching.EPOCHS)
    parser.add_argument("--only", help="names of our rows, with ; between them")
    parser.set_defaults(blocks=1, vocabulary=32000)
    args = parser.parse_args()
    tokens = torch.randint(0, args.vocabulary, (args.windows, args.window_tokens), generator=torch.manual_seed(0))
    measure, rows = Measure(start(args), tokens, args.device), []
    models: dict[str, Any] = {}
    for name in args.only.split(";") if args.only else SCHEDULES:
        models[name], row = ours(name, tokens, args)
        rows.append(row | {"loss": measure.loss(models[name].model.layers[0])})
        if name != "no matching":
            del models[name]
        gc.collect()
        report(rows, args)
    if args.authors:
        rows.append(theirs(models["no matching"], measure, args))
        report(rows, args)


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    print({key: value for key, value in rows[-1].items() if key not in ("matching", "epoch_losses")}, flush=True)
    if args.out:
        results.write(args.out, args.device, rows, rank=args.rank, pattern="2:4", windows=args.windows)


if __name__ == "__main__":
    main()
