"""Texts, tables and JSON that the commands print."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparlow.report import bytes_text, json_text, number_text, seconds_text, short_names


@dataclass
class Inner:
    ratio: float
    place: Path


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (212_336_640, "212.3 MB"), (3e9, "3.0 GB"), (5e12, "5.0 TB")],
)
def test_bytes_have_decimal_units(count, text):
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.416, "0.42 s"), (12.34, "12.3 s"), (185.2, "3 min 05 s"), (7810, "2 h 10 min")]
)
def test_durations_are_short(seconds, text):
    assert seconds_text(seconds) == text


def test_what_was_not_measured_is_a_dash():
    assert [number_text(value) for value in (None, math.nan, 0.0123456, 12)] == ["-", "-", "0.01235", "12"]


def test_json_takes_dataclasses_paths_and_what_json_lacks():
    found = json.loads(json_text({"a": [Inner(math.nan, Path("x/y"))], "b": (math.inf, 1, True, None)}))
    assert found == {"a": [{"ratio": None, "place": "x/y"}], "b": [None, 1, True, None]}


def test_names_lose_what_they_share():
    names = ["model.layers.0.mlp.up_proj", "model.layers.10.mlp.up_proj"]
    assert short_names(names) == ("layer of model.layers", ["0.mlp.up_proj", "10.mlp.up_proj"])
    assert short_names(["a.b"]) == ("layer", ["a.b"])
    assert short_names(["a.x", "b.x"]) == ("layer", ["a.x", "b.x"])
