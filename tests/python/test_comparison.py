"""Result files of the table bench: read together, as a table, and as curves over bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sparlow.cli.main import main
from sparlow.comparison import chart, curves, read_comparison

_SPACE = "{http://www.w3.org/2000/svg}"


def row(setting: str, method: str, perplexity: float, size: int) -> dict[str, Any]:
    return {
        "setting": setting,
        "method": method,
        "perplexity": perplexity,
        "bytes": size,
        "dense_bytes": 100_000_000,
        "seconds": 1.5,
        "options": {},
    }


@pytest.fixture
def results(tmp_path: Path) -> list[Path]:
    first = [row("2:4+r32", "oats", 30.0, 65_000_000), row("2:4", "oats", 40.0, 56_000_000)]
    second = [
        row("@row+b0.5", "oats", 28.0, 56_000_000),
        row("@row+b0.5+r8", "oats", 27.0, 56_000_000),
        row("@row+b0.6", "oats", 24.0, 66_000_000),
        row("2:4", "magnitude", 900.0, 56_000_000),
        row("2:4", "oats", 38.0, 56_000_000),
    ]
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path, rows in zip(paths, (first, second), strict=True):
        path.write_text(json.dumps({"dense_perplexity": 20.0, "rows": rows}))
    return paths


def test_files_are_read_together_and_the_last_row_of_a_cell_counts(results):
    found = read_comparison(results)
    assert found.dense == 20.0
    assert {(r.setting, r.method): r.perplexity for r in found.rows} == {
        ("2:4+r32", "oats"): 30.0,
        ("2:4", "oats"): 38.0,
        ("@row+b0.5", "oats"): 28.0,
        ("@row+b0.5+r8", "oats"): 27.0,
        ("@row+b0.6", "oats"): 24.0,
        ("2:4", "magnitude"): 900.0,
    }


def test_a_curve_stays_within_one_form_and_runs_by_bytes(results):
    found = read_comparison(results)
    assert {row.family for row in found.rows} == {"2:4", "densities", "densities + rank 8"}
    lines = {line.name: line for line in curves(found.rows)}
    assert list(lines) == ["oats, densities", "oats, 2:4"]  # the best ones first, and none of one size only
    assert lines["oats, 2:4"].points == [(56.0, 38.0), (65.0, 30.0)]
    assert lines["oats, densities"].points == [(56.0, 28.0), (66.0, 24.0)]
    assert lines["oats, densities"].dashed
    assert not lines["oats, 2:4"].dashed


def test_the_chart_has_every_curve_with_its_points_and_says_what_it_leaves_out(results):
    svg, left_out = chart(read_comparison(results))
    root = ElementTree.fromstring(svg)
    assert len(root.findall(f"{_SPACE}polyline")) == 3  # two of oats and the dense model's
    assert len(root.findall(f"{_SPACE}circle")) == 3 * 2
    labels = [text.text for text in root.findall(f"{_SPACE}text")]
    assert {"oats, 2:4", "oats, densities", "dense, 100 MB"} <= set(labels)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    places = [(float(text.attrib["x"]), float(text.attrib["y"])) for text in root.findall(f"{_SPACE}text")]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    assert left_out == ["magnitude, 2:4: 900.0"]


def test_the_command_prints_a_table_and_writes_the_chart(results, tmp_path, capsys):
    plot = tmp_path / "chart.svg"
    assert main(["report", *map(str, results), "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert "off the chart: magnitude, 2:4: 900.0" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["2:4", "oats", "38.00", "1.900", "56.0", "MB", "0.5600", "1.50", "s"] in lines
    assert plot.read_text().startswith("<svg ")
    assert main(["report", *map(str, results), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 6


def test_files_that_cannot_be_compared_are_refused(results, tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"dense_perplexity": 21.0, "rows": [row("2:4", "oats", 30.0, 1)]}))
    with pytest.raises(ValueError, match=r"other\.json has the dense perplexity 21\.0000, .*20\.0000.*cannot be"):
        read_comparison([*results, other])
    for content in ("{", "[]", '{"rows": []}', '{"dense_perplexity": 1.0, "rows": [{"setting": "2:4"}]}'):
        other.write_text(content)
        with pytest.raises(ValueError, match=r"other\.json is not a result file"):
            read_comparison([other])
    other.write_text(json.dumps({"dense_perplexity": 20.0, "rows": [row("2:4", "oats", 30.0, 1)]}))
    with pytest.raises(ValueError, match="no method has rows of more than one size"):
        chart(read_comparison([other]))
    assert main(["report", str(results[0]), "--plot", str(tmp_path / "chart.png")]) == 2
    assert "does not end in .svg" in capsys.readouterr().err
    assert main(["report", str(results[0]), str(tmp_path)]) == 2
    assert "one checkpoint folder, or .json files only" in capsys.readouterr().err
