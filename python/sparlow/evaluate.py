"""How well a language model predicts text, and what it writes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

# Rows of logits turned into log-probabilities at a time: bounds the copy that cross_entropy makes.
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Evaluation:
    """Token perplexity of one model on one text. `seconds` is wall time; a loss too large for a float gives `inf`."""

    perplexity: float
    windows: int
    window_tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def encode(tokenizer: Any, text: str) -> Tensor:
    """Tokens of `text` as one stream, int64 [tokens]; special tokens as the tokenizer adds them, once.

    ValueError if the text is empty.
    """
    if not text.strip():
        raise ValueError("the text is empty: nothing to evaluate")
    ids = tokenizer(text, return_attention_mask=False, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.int64)


def cut_windows(tokens: Tensor, window: int, limit: int | None = None) -> Tensor:
    """Cuts a token stream [tokens] into consecutive windows [count, window]; the rest at the end is dropped.

    With `limit`, keeps that many windows at even distances over the whole stream.
    ValueError if the window is shorter than 2 tokens or the stream shorter than a window.
    """
    if window < 2:
        raise ValueError(f"a window of {window} token(s) predicts nothing: use at least 2")
    if limit is not None and limit < 1:
        raise ValueError(f"the number of windows is {limit}: use at least 1")
    count = tokens.numel() // window
    if count == 0:
        raise ValueError(
            f"the text has {tokens.numel()} tokens, fewer than one window of {window}: use a smaller window"
        )
    windows = tokens.reshape(-1)[: count * window].reshape(count, window)
    if limit is None or limit >= count:
        return windows
    return windows[torch.arange(limit) * count // limit]


def evaluate(
    model: Any,
    tokens: Tensor,
    window: int,
    batch: int = 1,
    *,
    limit: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Token perplexity of a causal model on a token stream, cut as `cut_windows` says.

    Every window starts with an empty context: exp of the mean over windows of the mean cross-entropy of its
    `window - 1` predictions (the protocol of SparseGPT, Wanda and 3BASiL; they use 2048). `batch` windows go
    through the model together; `advance` is told how many are done. ValueError as in `cut_windows`, for a window
    longer than the model's positions, and for a batch below 1.
    """
    windows = cut_windows(tokens, window, limit)
    _check(model, window, batch)
    device = next(model.parameters()).device
    started, total = time.perf_counter(), 0.0
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for part in torch.split(windows, batch):
                total += window_losses(model, part.to(device))
                if advance is not None:
                    advance(len(part))
    finally:
        model.train(was_training)
    mean = total / len(windows)
    value = math.exp(mean) if not mean > 700 else math.inf
    return Evaluation(value, len(windows), window, time.perf_counter() - started)


def perplexity(model: Any, tokens: Tensor, window: int, batch: int = 1) -> float:
    """`evaluate(...)`, the figure only."""
    return evaluate(model, tokens, window, batch).perplexity


def generate(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int = 32, *, chat: bool = False) -> str:
    """What the model writes after `prompt`, greedily: the new text only.

    With `chat`, the prompt is one user message in the tokenizer's template. ValueError for an empty prompt, for no
    new tokens, and for `chat` without a template.
    """
    if not prompt:
        raise ValueError("the prompt is empty")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}: use at least 1")
    ids = _prompt_ids(tokenizer, prompt, chat).to(next(model.parameters()).device)
    stop = tokenizer.eos_token_id
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop,
        )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def _check(model: Any, window: int, batch: int) -> None:
    if batch < 1:
        raise ValueError(f"the batch is {batch}: use at least 1")
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and window > positions:
        raise ValueError(f"a window of {window} tokens is longer than the model's {positions} positions")


def window_losses(model: Any, ids: Tensor) -> float:
    """Sum over the windows ids [batch, window] of the mean cross-entropy, in nats."""
    logits = model(input_ids=ids, use_cache=False).logits
    predicted, targets = logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    total = 0.0
    parts = zip(torch.split(predicted, _ROWS_AT_ONCE), torch.split(targets, _ROWS_AT_ONCE), strict=True)
    for rows, wanted in parts:
        total += torch.nn.functional.cross_entropy(rows.float(), wanted, reduction="sum").item()
    return total / (ids.shape[1] - 1)


def _prompt_ids(tokenizer: Any, prompt: str, chat: bool) -> Tensor:
    if not chat:
        return torch.tensor([tokenizer(prompt)["input_ids"]], dtype=torch.int64)
    if tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template: leave out --chat")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]], dtype=torch.int64)
