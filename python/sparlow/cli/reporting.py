"""`sparlow report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from sparlow.checkpoint import read_info
from sparlow.cli.output import JsonFlag, show
from sparlow.comparison import chart, comparison_table, read_comparison
from sparlow.report import matching_table
from sparlow.svg import Line, line_chart


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="A folder that `sparlow compress` wrote, or result files of bench/bench_table.py.", metavar="SOURCE..."
        ),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Write a chart to this file: the loss curves of matching, or perplexity against bytes.",
            metavar="FILE.svg",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """How a checkpoint was made: what matching gained in each block. Or how methods compare, from a bench's files."""
    if plot is not None and plot.suffix != ".svg":
        raise ValueError(f"--plot writes SVG; '{plot}' does not end in .svg")
    files = [path for path in sources if path.suffix == ".json"]
    if files and len(files) == len(sources):
        _report_comparison(files, plot, as_json)
    elif len(sources) == 1:
        _report_checkpoint(sources[0], plot, as_json)
    else:
        raise ValueError("report takes one checkpoint folder, or .json files only")


def _report_comparison(files: Sequence[Path], plot: Path | None, as_json: bool) -> None:
    found = read_comparison(files)
    parts: list[RenderableType] = [comparison_table(found)]
    if plot is not None:
        svg, left_out = chart(found)
        plot.write_text(svg, encoding="utf-8")
        parts += ["", f"Perplexity against bytes: {plot}", *(f"off the chart: {text}" for text in left_out)]
    show({"dense": found.dense, "rows": found.rows, "plot": plot}, as_json, *parts)


def _report_checkpoint(checkpoint: Path, plot: Path | None, as_json: bool) -> None:
    matched = [line for line in read_info(checkpoint).metrics if line.get("kind") == "matching"]
    parts: list[RenderableType] = []
    if matched:
        parts += [matching_table(matched), ""]
    else:
        parts.append(f"{checkpoint} was made without matching.")
    if plot is not None:
        _write_plot(plot, checkpoint, matched)
        parts.append(f"Loss curves: {plot}")
    show({"matching": matched, "plot": plot}, as_json, *parts)


def _write_plot(path: Path, checkpoint: Path, matched: Sequence[Mapping[str, Any]]) -> None:
    if not matched:
        raise ValueError(f"{checkpoint} was made without matching: there are no loss curves to plot")
    lines = [Line(str(entry["block"]), _points(entry["curve"])) for entry in matched]
    path.write_text(line_chart("Matching", "epoch", "held-out loss / target energy", lines), encoding="utf-8")


def _points(curve: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(epoch["number"], epoch["held_out"]) for epoch in curve if epoch["held_out"] is not None]
