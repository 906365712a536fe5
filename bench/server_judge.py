"""Are a server's answers right? Beside the engine by itself, and beside the same model in float32 by transformers."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import torch
from server_client import Answer
from transformers import AutoModelForCausalLM

import sparlow  # noqa: F401  (lets transformers read its checkpoints)


def engine_share(words: Sequence[str], prompts: list[list[int]], answers: list[Answer]) -> float:
    """Of the prompts, those to which the program `llama` called with these words answers the same tokens."""
    asked = [word for prompt in prompts for word in ("--prompt-ids", ",".join(map(str, prompt)))]
    lines = subprocess.run([*words, *asked], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    alone = [[int(token) for token in line.split(",")] for line in lines]
    return sum(mine[0] == theirs for mine, theirs in zip(answers, alone, strict=True)) / len(prompts)


class Judge:
    """A model in float32, which is asked for its logits after the same tokens."""

    def __init__(self, folder: str, device: str) -> None:
        self.device = device
        model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = model.to(device).eval()

    @torch.no_grad()
    def __call__(self, prompts: list[list[int]], answers: list[Answer]) -> dict[str, float]:
        gaps = []
        for prompt, (tokens, _, _) in zip(prompts, answers, strict=True):
            inputs = torch.tensor([prompt + tokens], device=self.device)
            logits = self.model(inputs).logits[0, len(prompt) - 1 : -1]
            gaps.append(logits.amax(1) - logits.gather(1, inputs[0, len(prompt) :, None])[:, 0])
        gap = torch.cat(gaps)
        return {"likeliest": round(float((gap == 0).float().mean()), 4), "gap": round(float(gap.max()), 4)}
