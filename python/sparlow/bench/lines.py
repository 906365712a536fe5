"""Result files of the benchmarks: JSON lines of kind run, ceiling and row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS = ("us", "times_baseline", "gbytes_per_s", "tflops", "of_ceiling")


@dataclass(frozen=True)
class Row:
    """One measurement: what was measured, median and quartiles of its seconds, everything else of its line."""

    bench: str
    case: Mapping[str, Any]
    q1: float
    median: float
    q3: float
    line: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Equal for the same case of two files."""
        return json.dumps([self.bench, self.case], sort_keys=True)

    @property
    def label(self) -> str:
        return " ".join([self.bench, *(f"{name}={value}" for name, value in self.case.items())])

    def metric(self, name: str) -> float | None:
        """One of METRICS; None if the row has none. ValueError for another name."""
        if name not in METRICS:
            raise ValueError(f"unknown metric '{name}'; accepted: {', '.join(METRICS)}")
        value = 1e6 * self.median if name == "us" else self.line.get(name)
        return None if value is None else float(value)


@dataclass(frozen=True)
class Results:
    """All of a file. machine: hardware and versions of its first run."""

    path: Path
    machine: Mapping[str, Any]
    rows: tuple[Row, ...]


def read(path: str | Path) -> Results:
    """Reads a file that a benchmark wrote. ValueError that names file and line for anything that is not one."""
    path = Path(path)
    machine: dict[str, Any] = {}
    rows: dict[str, Row] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}, line {number}"
        line = _parse(text, where)
        if line["kind"] == "run":
            machine = machine or _machine(line)
        elif line["kind"] == "row":
            row = _row(line, where)
            if row.key in rows:
                raise ValueError(f"{where} measures the same case as a line before: {row.label}")
            rows[row.key] = row
    if not rows:
        raise ValueError(f"{path} has no measurement")
    return Results(path, machine, tuple(rows.values()))


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(line, dict) or "kind" not in line:
        raise ValueError(f"{where} is not of a benchmark: it has no 'kind'")
    return line


def _row(line: Mapping[str, Any], where: str) -> Row:
    try:
        seconds = line["seconds"]
        q1, median, q3 = (float(seconds[name]) for name in ("q1", "median", "q3"))
        row = Row(str(line["bench"]), dict(line["case"]), q1, median, q3, line)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: a row needs bench, case and seconds with q1, median and q3 ({error})") from error
    if not 0 < row.q1 <= row.median <= row.q3:
        raise ValueError(f"{where}: quartiles {row.q1}, {row.median}, {row.q3} are not in order")
    return row


def _machine(line: Mapping[str, Any]) -> dict[str, Any]:
    device = line.get("device", {})
    return {"sparlow": line.get("sparlow"), "compiler": line.get("compiler")} | dict(device)
