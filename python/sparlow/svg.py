"""A line chart as SVG text: enough for curves of a run, with no plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_PLOT_WIDTH, _PLOT_HEIGHT = 520, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 170, 36, 44
_LABEL_STEP, _LETTER = 20, 7  # pixels
_MOST_LABELS = 14
_FEW_TICKS = 4


@dataclass(frozen=True)
class Line:
    """One curve: its name in the legend, and its points (x, y) by x; only finite ones are drawn."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    *,
    log: bool = True,
    log_x: bool = False,
    markers: bool = False,
    most_labels: int = _MOST_LABELS,
) -> str:
    """An SVG document. log, log_x: logarithmic axes, on which values <= 0 are left out; markers: a dot at every point.

    With more lines than `most_labels` only some are in the legend. ValueError if no line has a point to draw.
    """
    kept = [Line(line.name, [p for p in line.points if _drawable(p, log, log_x)], line.dashed) for line in lines]
    points = [point for line in kept for point in line.points]
    if not points:
        raise ValueError(f"nothing to draw in the chart '{title}'")
    every = math.ceil(len(kept) / most_labels)
    right = max(_RIGHT, 24 + _LETTER * max(len(line.name) for line in kept[::every]))
    width, bottom = _LEFT + _PLOT_WIDTH + right, _TOP + max(_PLOT_HEIGHT, _LABEL_STEP * len(kept[::every]))
    height, end = bottom + _BOTTOM, width - right
    to_x = _Axis([x for x, _ in points], _LEFT, end, log=log_x)
    to_y = _Axis([y for _, y in points], bottom, _TOP, log=log)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>',
        _text(_LEFT, 20, title, "start", 'font-weight="bold"'),
        _text((_LEFT + end) / 2, height - 8, x_label),
        _text(16, height / 2, y_label, "middle", f'transform="rotate(-90 16 {height / 2})"'),
        *(_grid_line(to_y, value, end) for value in to_y.ticks()),
        *(_text(to_x(value), bottom + 18, f"{value:g}") for value in to_x.ticks()),
        *(_curve(line, _color(k, len(kept)), markers, to_x, to_y) for k, line in enumerate(kept)),
        *(_label(line, k, _color(every * k, len(kept)), end) for k, line in enumerate(kept[::every])),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


class _Axis:
    """Maps values to places between two ends."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool) -> None:
        self._log, self._start, self._end = log, start, end
        low, high = self._scaled(min(values)), self._scaled(max(values))
        margin = 0.5 * (high == low)
        self._low, self._high = low - margin, high + margin

    def __call__(self, value: float) -> float:
        share = (self._scaled(value) - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 2)

    def ticks(self) -> list[float]:
        """Round values inside the range; of a logarithmic axis 1, 2, 5 times powers of ten, or more if it is short."""
        if self._log:
            inside = self._round_values((1, 2, 5))
            if len(inside) < _FEW_TICKS:
                inside = self._round_values((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))
            return inside or [10**self._low, 10**self._high]
        rough = (self._high - self._low) / 8
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self._low / step)
        return [(first + i) * step for i in range(int(self._high / step - first + 1e-9) + 1)]

    def _round_values(self, factors: Sequence[float]) -> list[float]:
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        candidates = [factor * 10.0**power for power in decades for factor in factors]
        return [value for value in candidates if self._low <= math.log10(value) <= self._high]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._log else value


def _drawable(point: tuple[float, float], log: bool, log_x: bool) -> bool:
    return all(map(math.isfinite, point)) and (point[0] > 0 or not log_x) and (point[1] > 0 or not log)


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def _grid_line(to_y: _Axis, value: float, end: float) -> str:
    y = to_y(value)
    line = f'<line x1="{_LEFT}" x2="{end}" y1="{y}" y2="{y}" stroke="#ddd"/>'
    return line + _text(_LEFT - 6, y + 4, f"{value:.3g}", "end")


def _color(number: int, count: int) -> str:
    return f"hsl({240 - 240 * number / max(1, count - 1):.0f},70%,45%)"


def _curve(line: Line, color: str, markers: bool, to_x: _Axis, to_y: _Axis) -> str:
    if not line.points:
        return ""
    places = [(to_x(x), to_y(y)) for x, y in line.points]
    path = " ".join(f"{x},{y}" for x, y in places)
    dashes = ' stroke-dasharray="5 3"' if line.dashed else ""
    drawn = f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"{dashes}/>'
    return drawn + "".join(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{color}"/>' for x, y in places if markers)


def _label(line: Line, number: int, color: str, end: float) -> str:
    if not line.points:
        return ""
    return _text(end + 12, _TOP + 12 + _LABEL_STEP * number, line.name, "start", f'fill="{color}"')
