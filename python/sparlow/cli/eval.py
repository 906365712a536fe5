"""`sparlow eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from sparlow import evaluate as evaluation
from sparlow.cli.models import DeviceOption, Dtype, DtypeOption, open_model
from sparlow.cli.output import JsonFlag, progress_bar, show
from sparlow.report import perplexity_table, protocol_text
from sparlow.sources import read_text

_PAPERS_WINDOW = 2048


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Folders, hub names or .gguf files; the dense model first.")],
    text: Annotated[Path, typer.Option("--text", help="A plain text file (UTF-8) to predict.")],
    window: Annotated[
        int | None,
        typer.Option("--window", help="Tokens per window (default: 2048, or the model's positions if fewer)."),
    ] = None,
    windows: Annotated[
        int | None, typer.Option("--windows", help="Use only so many windows, spread evenly (default: all).")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Windows per forward pass.")] = 1,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Token perplexity of one or more models on the same text, side by side."""
    content = read_text(text)
    if not content:
        raise ValueError(f"{text} is empty: nothing to evaluate")
    rows: list[tuple[str, evaluation.Evaluation]] = []
    tokens: Tensor | None = None
    for source in models:
        found, window, tokens = _evaluate_one(source, content, tokens, window, windows, batch, device, dtype)
        rows.append((source, found))
    payload = {"text": str(text), "models": [{"model": source, **found.to_dict()} for source, found in rows]}
    show(payload, as_json, perplexity_table(rows), protocol_text(rows[0][1]))


def _evaluate_one(
    source: str,
    content: str,
    tokens: Tensor | None,
    window: int | None,
    windows: int | None,
    batch: int,
    device: str,
    dtype: Dtype | None,
) -> tuple[evaluation.Evaluation, int, Tensor]:
    """Evaluates one model; tokens and window come from the first one, so that all predict the same."""
    model, tokenizer = open_model(source, device, dtype)
    if tokens is None:
        tokens = evaluation.encode(tokenizer, content)
    if int(tokens.max()) >= model.config.get_text_config().vocab_size:
        raise ValueError(
            f"{source} has a smaller vocabulary than the first model: their perplexities are not comparable"
        )
    if window is None:
        window = min(_PAPERS_WINDOW, getattr(model.config, "max_position_embeddings", _PAPERS_WINDOW))
    total = len(evaluation.cut_windows(tokens, window, windows))
    with progress_bar() as progress:
        task = progress.add_task(f"evaluating {source}", total=total)
        found = evaluation.evaluate(
            model, tokens, window, batch, limit=windows, advance=lambda done: progress.advance(task, done)
        )
    return found, window, tokens
