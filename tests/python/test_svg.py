"""Charts as SVG: well-formed, every curve drawn, odd values left out."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from sparlow.svg import Line, line_chart

_SPACE = "{http://www.w3.org/2000/svg}"


def _points(svg: str) -> list[list[tuple[float, ...]]]:
    lines = ElementTree.fromstring(svg).findall(f"{_SPACE}polyline")
    return [[tuple(map(float, point.split(","))) for point in line.attrib["points"].split()] for line in lines]


def test_a_falling_curve_falls_and_stays_inside() -> None:
    svg = line_chart("Losses <of> a run", "epoch", "loss", [Line("a & b", [(0, 1.0), (1, 0.1), (2, 0.01)])])
    (curve,) = _points(svg)
    assert [x for x, _ in curve] == sorted(x for x, _ in curve)
    steps = [b - a for (_, a), (_, b) in pairwise(curve)]
    assert steps[0] > 0  # down, in the coordinates of SVG
    assert steps[0] == pytest.approx(steps[1], abs=0.02)  # equal ratios are equal distances
    assert all(0 <= x <= 760 and 0 <= y <= 360 for x, y in curve)
    assert "Losses &lt;of&gt; a run" in svg
    assert "a &amp; b" in svg


def test_values_that_cannot_be_drawn_are_left_out() -> None:
    lines = [Line("a", [(0, 1.0), (1, math.nan), (2, 0.0), (3, 2.0)]), Line("b", [(0, -1.0)])]
    assert [len(curve) for curve in _points(line_chart("t", "x", "y", lines))] == [2]
    assert [len(curve) for curve in _points(line_chart("t", "x", "y", lines, log=False))] == [3, 1]
    with pytest.raises(ValueError, match="nothing to draw in the chart 't'"):
        line_chart("t", "x", "y", [Line("a", [(0, math.inf)])])


def test_one_point_and_many_lines() -> None:
    assert len(_points(line_chart("t", "x", "y", [Line("a", [(1, 1.0)])]))) == 1
    many = [Line(f"line {i}", [(0, 1.0 + i), (1, 2.0)]) for i in range(40)]
    svg = line_chart("t", "x", "y", many)
    assert len(_points(svg)) == 40
    assert 10 <= svg.count(">line ") <= 14
