"""Real layers for the solver benches: weights and Gram matrices of a model on calibration text.

    python bench/layers.py MODEL TEXT OUT [--blocks 0,7,15] [--windows 32] [--window-tokens 512]

writes OUT/block{i}.pt, each {"weights": {name: [d_out, d_in]}, "inputs": {name: gram name},
"grams": {gram name: [d_in, d_in]}, "tokens": int}. Inputs come from the dense model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import sparlow


def token_windows(tokenizer: Any, text: str, windows: int, length: int) -> Tensor:
    ids = tokenizer(text, return_tensors="pt").input_ids[0]
    if len(ids) < windows * length:
        raise SystemExit(f"the text has {len(ids)} tokens; {windows} windows of {length} need {windows * length}")
    return ids[: windows * length].reshape(windows, length)


class Collector:
    """Accumulates one Gram matrix per distinct input tensor of the chosen blocks."""

    def __init__(self, blocks: dict[int, nn.Module]) -> None:
        self.grams: dict[int, dict[str, sparlow.Gram]] = {i: {} for i in blocks}
        self.inputs: dict[int, dict[str, str]] = {i: {} for i in blocks}
        self._seen: dict[int, tuple[Tensor, str]] = {}
        for i, block in blocks.items():
            for name, module in block.named_modules():
                if isinstance(module, nn.Linear):
                    module.register_forward_pre_hook(self._hook(i, name.split(".")[-1]))

    def _hook(self, block: int, name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            last = self._seen.get(block)
            if last is not None and last[0] is x:  # q, k, v and gate, up share their input
                self.inputs[block][name] = last[1]
                return
            self._seen[block] = (x, name)
            self.inputs[block][name] = name
            gram = self.grams[block].setdefault(name, sparlow.Gram(x.shape[-1], name=name))
            gram.add(x)

        return hook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--blocks", default="0,7,15,29")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--window-tokens", type=int, default=512)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokens = token_windows(tokenizer, args.text.read_text(), args.windows, args.window_tokens)
    blocks = {int(i): model.model.layers[int(i)] for i in args.blocks.split(",")}
    collector = Collector(blocks)
    with torch.no_grad():
        for window in tokens.split(4):
            model(window, use_cache=False)
    args.out.mkdir(parents=True, exist_ok=True)
    for i, block in blocks.items():
        weights = {n.split(".")[-1]: m.weight.detach() for n, m in block.named_modules() if isinstance(m, nn.Linear)}
        grams = {name: gram.matrix() for name, gram in collector.grams[i].items()}
        content = {"weights": weights, "inputs": collector.inputs[i], "grams": grams, "tokens": tokens.numel()}
        torch.save(content, args.out / f"block{i}.pt")


if __name__ == "__main__":
    main()
