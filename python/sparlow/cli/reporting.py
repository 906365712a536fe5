"""`sparlow report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from sparlow.checkpoint import read_info
from sparlow.cli.output import JsonFlag, show
from sparlow.report import matching_table
from sparlow.svg import Line, line_chart


def report(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that `sparlow compress` wrote.")],
    plot: Annotated[
        Path | None, typer.Option(help="Write the loss curves of matching to this .svg file.", metavar="FILE.svg")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """How a checkpoint was made: what matching gained in each block, and its loss curves."""
    matched = [line for line in read_info(checkpoint).metrics if line.get("kind") == "matching"]
    parts: list[RenderableType] = []
    if matched:
        parts += [matching_table(matched), ""]
    else:
        parts.append(f"{checkpoint} was made without matching.")
    if plot is not None:
        _write_plot(plot, checkpoint, matched)
        parts.append(f"Loss curves: {plot}")
    show({"matching": matched, "plot": None if plot is None else str(plot)}, as_json, *parts)


def _write_plot(path: Path, checkpoint: Path, matched: Sequence[Mapping[str, Any]]) -> None:
    if not matched:
        raise ValueError(f"{checkpoint} was made without matching: there are no loss curves to plot")
    if path.suffix != ".svg":
        raise ValueError(f"--plot writes SVG; '{path}' does not end in .svg")
    lines = [Line(str(entry["block"]), _points(entry["curve"])) for entry in matched]
    path.write_text(line_chart("Matching", "epoch", "held-out loss / target energy", lines), encoding="utf-8")


def _points(curve: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(epoch["number"], epoch["held_out"]) for epoch in curve if epoch["held_out"] is not None]
