"""Does a joint pass over pairs of blocks pay, after each block was matched by itself? Perplexity against seconds.

    python bench/bench_matching_pairs.py MODEL CALIBRATION [--blocks 6] [--evaluation FILE] [--out FILE]

Rows: the defaults; a pass over blocks (0, 1), (2, 3), ... after them, both blocks of a pair trained together towards
the dense model's hidden states behind the second; and, for the same time, more epochs block by block.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import bench_matching
import torch
import transformers
from torch import Tensor, nn

from sparlow.capture import Call
from sparlow.matching.batches import Batches
from sparlow.matching.repeatable import repeatable
from sparlow.matching.settings import Matching
from sparlow.matching.stage import batch_sizes, held_windows
from sparlow.matching.student import Student
from sparlow.matching.trainer import Trainer, held_batches
from sparlow.models import Block, find_blocks, replace_module
from sparlow.stream import Stream

# name -> epochs of each block, epochs and learning rate of the pairs
ROWS: dict[str, tuple[int, int, float]] = {
    "8 epochs": (8, 0, 0.0),
    "8 epochs, then 8 of the pairs at 3e-3": (8, 8, 3e-3),
    "16 epochs": (16, 0, 0.0),
    "8 epochs, then 4 of the pairs at 1e-3": (8, 4, 1e-3),
    "12 epochs": (12, 0, 0.0),
}


class Pair(nn.Module):
    """Two blocks, one after the other."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second


@dataclasses.dataclass(frozen=True)
class PairCall:
    """The calls of both, with the fields that tell calls apart."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    slot: tuple[int | str, int | str]

    @classmethod
    def of(cls, first: Call, second: Call) -> PairCall:
        return cls(
            (first.args, second.args), {"first": first.kwargs, "second": second.kwargs}, (first.slot, second.slot)
        )

    def run(self, pair: Any, hidden: Tensor) -> Tensor:
        for module, args, name, slot in zip((pair.first, pair.second), self.args, self.kwargs, self.slot, strict=True):
            hidden = Call(args, self.kwargs[name], slot).run(module, hidden)
        return hidden


def pair_pass(model: Any, dense: Any, windows: Tensor, settings: Matching, args: argparse.Namespace) -> list[Any]:
    """Train the pairs of `model` in place; the first and the best epoch of each."""
    blocks, found = find_blocks(model), []
    dtype = torch.bfloat16 if args.device != "cpu" else torch.float32
    make = {"batch": batch_sizes(len(windows), settings), "dtype": dtype, "device": args.device}
    stream = Stream(model, blocks, windows, **make)
    target = Stream(dense, find_blocks(dense), windows, **make)
    for index in range(0, args.blocks, 2):
        target.advance(index)
        target.advance(index + 1)
        pair = Pair(blocks[index].module, blocks[index + 1].module)
        calls = [PairCall.of(*both) for both in zip(stream.calls(index), stream.calls(index + 1), strict=True)]
        batches = Batches(list(stream.hidden), list(target.hidden), calls, settings.loss, args.device)  # type: ignore[arg-type]
        sizes = [len(hidden) for hidden in stream.hidden]
        held = held_batches(sizes, held_windows(sum(sizes), settings))
        with repeatable(args.device):
            student = Student(Block("pair", pair), norms=False, dtype=dtype, device=args.device)
            with student.installed() as module:
                trainer = Trainer(module, student, batches, held, settings, seed=index, device=args.device)
                trainer.run()
                layers = student.layers()
        for name, layer in layers.items():
            replace_module(pair, name.removeprefix("pair."), layer)
        found.append([trainer.curve[0].held_out, trainer.best.held_out, trainer.best.number])
        stream.advance(index)
        stream.advance(index + 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench_matching.add_texts(parser)
    parser.set_defaults(blocks=6)
    args = parser.parse_args()
    windows, streams = bench_matching.texts(args)
    rows: list[dict[str, Any]] = []
    for name, (epochs, pair_epochs, rate) in ROWS.items():
        model, row = bench_matching.run(name, {"matching": {"epochs": epochs}}, windows, args)
        if pair_epochs:
            dense = transformers.AutoModelForCausalLM.from_pretrained(args.model).eval()
            started = time.perf_counter()
            settings = Matching(epochs=pair_epochs, learning_rate=rate)
            row["pairs"] = pair_pass(model.eval(), dense, windows, settings, args)
            row["pair_seconds"] = time.perf_counter() - started
        bench_matching.keep(rows, row | bench_matching.perplexities(model, streams, args), args)


if __name__ == "__main__":
    main()
