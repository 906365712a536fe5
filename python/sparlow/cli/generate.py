"""`sparlow generate`."""

from __future__ import annotations

from typing import Annotated

import typer

from sparlow import evaluate
from sparlow.cli.models import DeviceOption, DtypeOption, open_model
from sparlow.cli.output import JsonFlag, show


def generate(
    model: Annotated[str, typer.Argument(help="A folder, hub name or .gguf file, dense or compressed.")],
    prompt: Annotated[str, typer.Argument(help="What the model goes on from.")],
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Most tokens to write.")] = 64,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the tokenizer's chat template.")] = False,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Let a model continue a prompt, always taking the likeliest token."""
    loaded, tokenizer = open_model(model, device, dtype)
    text = evaluate.generate(loaded, tokenizer, prompt, max_new_tokens, chat=chat)
    show({"model": model, "prompt": prompt, "text": text}, as_json, text if chat else prompt + text)
