"""Result files of bench/bench_table.py: methods on one model, as a table and as curves over the bytes they take."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from sparlow.budget import OPEN_PATTERNS
from sparlow.report import bytes_text, seconds_text, table
from sparlow.svg import Line, line_chart

_MOST_TIMES_DENSE = 4.0  # a chart that goes further up says nothing about the methods one would use


@dataclass(frozen=True)
class Row:
    """One compressed model. setting: pattern, budget and rank as the bench writes them; seconds: of the compression."""

    setting: str
    method: str
    perplexity: float
    bytes: int
    dense_bytes: int
    seconds: float

    @property
    def family(self) -> str:
        """What stays the same along a curve: the pattern, or that the density is free beside a given rank."""
        pattern, *parts = self.setting.split("+")
        if pattern not in OPEN_PATTERNS:
            return pattern
        return " + ".join(["densities", *(f"rank {part[1:]}" for part in parts if part[0] == "r")])


@dataclass(frozen=True)
class Comparison:
    """Rows that share model, data and windows, and the dense model's perplexity."""

    dense: float
    rows: list[Row]


def read_comparison(paths: Sequence[Path]) -> Comparison:
    """The rows of all files together; of the same setting and method the last one.

    ValueError for a file that is none of the bench's, and for files that were not measured on the same text.
    """
    rows: dict[tuple[str, str], Row] = {}
    dense: dict[Path, float] = {}
    for path in paths:
        content = _read(path)
        dense[path] = content["dense_perplexity"]
        for row in content["rows"]:
            rows[row["setting"], row["method"]] = Row(**{name: row[name] for name in Row.__dataclass_fields__})
    first = paths[0]
    for path, value in dense.items():
        if not math.isclose(value, dense[first], rel_tol=1e-4):
            raise ValueError(
                f"{path} has the dense perplexity {value:.4f}, {first} {dense[first]:.4f}: they were not measured on "
                "the same model, text and windows and cannot be compared"
            )
    return Comparison(dense[first], list(rows.values()))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content["rows"]
        complete = bool(rows) and all(name in row for row in rows for name in Row.__dataclass_fields__)
        complete = complete and isinstance(content["dense_perplexity"], float)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        complete = False
    if not complete:
        raise ValueError(
            f"{path} is not a result file of bench/bench_table.py: no dense perplexity and rows of methods"
        )
    return dict(content)


def curves(rows: Iterable[Row]) -> list[Line]:
    """Perplexity over megabytes, a curve per method and family with rows of more than one size, the best ones first."""
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: row.bytes):
        points.setdefault((row.method, row.family), []).append((row.bytes / 1e6, row.perplexity))
    several = [name for name, found in points.items() if found[0][0] < found[-1][0]]
    best = sorted(several, key=lambda name: min(y for _, y in points[name]))
    return [Line(f"{method}, {family}", points[method, family], ":" not in family) for method, family in best]


def chart(found: Comparison) -> tuple[str, list[str]]:
    """An SVG document of the curves, and the rows above some times the dense perplexity, which it leaves out.

    ValueError if no method is left with rows of more than one size.
    """
    most = _MOST_TIMES_DENSE * found.dense
    left_out = [f"{row.method}, {row.setting}: {row.perplexity:.1f}" for row in found.rows if row.perplexity > most]
    lines = curves(row for row in found.rows if row.perplexity <= most)
    if not lines:
        raise ValueError("no method has rows of more than one size, so there is no curve to draw")
    ends = [pick(x for line in lines for x, _ in line.points) for pick in (min, max)]
    lines.append(Line(f"dense, {found.rows[0].dense_bytes / 1e6:.0f} MB", [(x, found.dense) for x in ends]))
    labels = len(lines)
    svg = line_chart(
        "Perplexity against bytes", "linear layers, MB", "perplexity", lines, markers=True, most_labels=labels
    )
    return svg, left_out


def comparison_table(found: Comparison) -> Table:
    """One row per method and setting of a `Comparison`, the best of a setting first; the dense model on top."""
    places = {row.setting: k for k, row in reversed(list(enumerate(found.rows)))}
    rows = (
        (
            row.setting,
            row.method,
            f"{row.perplexity:.2f}",
            f"{row.perplexity / found.dense:.3f}",
            bytes_text(row.bytes),
            f"{row.bytes / row.dense_bytes:.4f}",
            seconds_text(row.seconds),
        )
        for row in sorted(found.rows, key=lambda row: (places[row.setting], row.perplexity))
    )
    columns = ("setting", "method", "perplexity", "of dense", "linear layers", "of dense", "seconds")
    dense = ("dense", "", f"{found.dense:.2f}", "1.000", bytes_text(found.rows[0].dense_bytes), "1.0000", "-")
    return table(columns, [dense, *rows], text_columns=2)
