"""A result file as curves over one of the numbers of its cases."""

from __future__ import annotations

from sparlow.bench.lines import Results, Row
from sparlow.svg import Line, line_chart

_LABELS = {
    "us": "microseconds",
    "times_baseline": "times the baseline's speed",
    "gbytes_per_s": "GB/s",
    "tflops": "TFLOP/s",
    "of_ceiling": "of the measured ceiling",
}


def chart(results: Results, x: str, y: str) -> str:
    """An SVG document: metric y over number x of the cases, a curve for all else that varies.

    ValueError if no row has both.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    varying = _varying(results, x)
    for row in results.rows:
        value = row.metric(y)
        place = row.case.get(x)
        if value is None or isinstance(place, (str, bool)) or place is None:
            continue
        points.setdefault(_name(row, varying), []).append((float(place), value))
    if not points:
        numbers = sorted({name for row in results.rows for name, v in row.case.items() if isinstance(v, int)})
        raise ValueError(f"no row of {results.path} has {y} and a number '{x}'; there are {', '.join(numbers)}")
    lines = [Line(name, sorted(found)) for name, found in points.items()]
    title = f"{results.rows[0].bench}, {results.machine.get('name', 'unknown machine')}"
    return line_chart(title, x, _LABELS[y], lines, log=y == "us", log_x=True)


def _varying(results: Results, x: str) -> list[str]:
    """Names of what differs between cases, without x, and without d_out and d_in where the layer's name says both."""
    names = dict.fromkeys(name for row in results.rows for name in row.case if name not in (x, "d_out", "d_in"))
    return [name for name in names if len({str(row.case.get(name)) for row in results.rows}) > 1]


def _name(row: Row, varying: list[str]) -> str:
    return " ".join(str(row.case[name]) for name in varying if name in row.case) or row.bench
