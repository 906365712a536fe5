"""Where the commands write: results to stdout, progress and notes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sparlow.report import json_text

# A pipe or file has no width; tables that end up there must not be cut.
_WIDTH_WITHOUT_TERMINAL = 160

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON for machines.")]


class Interrupted(Exception):
    """Ctrl-C, with what to tell the user: `notes`, or that nothing was left behind."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__("; ".join(["interrupted", *(notes or ["nothing half-written was left behind"])]))


def error_text(error: Exception) -> str:
    """What went wrong, without Python's numbers and names of errors where there are words."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def show(payload: Any, as_json: bool, *parts: RenderableType) -> None:
    """Prints `payload` as JSON, or `parts` for people."""
    if as_json:
        print(json_text(payload))
        return
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL, highlight=False)
    for part in parts:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar with time left on stderr, gone when done; nothing at all where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


class CompressionProgress:
    """What `sparlow.compress` tells while it works, as a bar over the layers."""

    def __init__(self, progress: Progress, label: str = "compressing") -> None:
        self._progress, self._label = progress, label
        self._task = progress.add_task(label, total=None)
        self._blocks = 0

    def start(self, total_blocks: int, total_layers: int) -> None:
        self._blocks = total_blocks
        self._progress.update(self._task, total=total_layers)

    def block(self, index: int) -> None:
        self._progress.update(self._task, description=f"{self._label}, block {index + 1}/{self._blocks}")

    def layer(self, record: Any) -> None:
        del record
        self._progress.advance(self._task)

    def matched(self, record: Any) -> None:
        self._progress.update(self._task, description=f"{self._label}, matched {record.block}")

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)
