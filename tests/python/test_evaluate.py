"""Perplexity against its definition written out in float64, and greedy generation against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_folder import CHAT_TEMPLATE, POSITIONS, byte_tokenizer, tiny_llama
from torch import Tensor

from sparlow.evaluate import cut_windows, encode, evaluate, generate, perplexity


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.fixture(scope="module")
def stream() -> Tensor:
    return torch.randint(1, 257, (333,), generator=torch.Generator().manual_seed(1))


def by_definition(model, tokens: Tensor, window: int) -> float:
    """exp of the mean over windows of -mean log p(next token), in float64."""
    losses = []
    for start in range(0, len(tokens) // window * window, window):
        ids = tokens[start : start + window]
        with torch.no_grad():
            scores = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        losses.append(-sum(scores[i, ids[i + 1]].item() for i in range(window - 1)) / (window - 1))
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("window", [2, 17, 64])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_perplexity_is_its_definition(model, stream, window, batch):
    assert perplexity(model, stream, window, batch) == pytest.approx(by_definition(model, stream, window), rel=1e-5)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(stream):
    model = tiny_llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    assert perplexity(model, stream, 50) == pytest.approx(257, rel=1e-5)


def test_a_loss_beyond_floats_is_infinite_and_no_error(stream):
    model = tiny_llama()
    torch.nn.init.normal_(model.lm_head.weight, std=1e5)
    assert perplexity(model, stream, 50) == math.inf


def test_windows_drop_the_rest_and_spread_when_limited():
    tokens = torch.arange(107)
    assert cut_windows(tokens, 10).tolist() == torch.arange(100).reshape(10, 10).tolist()
    assert cut_windows(tokens, 10, limit=3)[:, 0].tolist() == [0, 30, 60]
    assert len(cut_windows(tokens, 10, limit=99)) == 10


def test_evaluation_reports_windows_and_tells_progress(model, stream):
    seen: list[int] = []
    found = evaluate(model, stream, 32, batch=4, limit=6, advance=seen.append)
    assert (found.windows, found.window_tokens, seen) == (6, 32, [4, 2])
    assert found.seconds > 0


def test_evaluating_leaves_the_training_mode_as_it_was(stream):
    model = tiny_llama().train()
    perplexity(model, stream, 32)
    assert model.training


@pytest.mark.parametrize(
    ("window", "batch", "limit", "message"),
    [
        (1, 1, None, "at least 2"),
        (400, 1, None, "333 tokens, fewer than one window of 400"),
        (POSITIONS + 1, 1, None, f"longer than the model's {POSITIONS} positions"),
        (32, 0, None, "the batch is 0"),
        (32, 1, 0, "the number of windows is 0"),
    ],
)
def test_impossible_windows_are_refused(model, stream, window, batch, limit, message):
    with pytest.raises(ValueError, match=message):
        evaluate(model, stream, window, batch, limit=limit)


def test_text_becomes_one_stream_of_tokens():
    assert encode(byte_tokenizer(), "añb").shape == (4,)
    with pytest.raises(ValueError, match="empty"):
        encode(byte_tokenizer(), " \n")


def test_generation_takes_the_likeliest_token(model):
    tokenizer = byte_tokenizer()
    ids = tokenizer("Once")["input_ids"]
    for _ in range(8):
        with torch.no_grad():
            best = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        ids.append(best)
    assert generate(model, tokenizer, "Once", 8) == tokenizer.decode(ids[4:])


def test_chat_goes_through_the_template(model):
    tokenizer = byte_tokenizer()
    with pytest.raises(ValueError, match="no chat template"):
        generate(model, tokenizer, "Hi", 4, chat=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    assert generate(model, tokenizer, "Hi", 4, chat=True) == generate(model, tokenizer, "<user>Hi", 4)


@pytest.mark.parametrize(("prompt", "count", "message"), [("", 4, "prompt is empty"), ("a", 0, "max_new_tokens is 0")])
def test_impossible_generations_are_refused(model, prompt, count, message):
    with pytest.raises(ValueError, match=message):
        generate(model, byte_tokenizer(), prompt, count)
