"""`sparlow bench` and the timing behind it, on the CPU."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from sparlow import benchmark, formats
from sparlow.cli import main
from sparlow.cli.bench import parse_shape, parse_tokens
from sparlow.layers import SparseLowRankLinear


def test_random_layers_are_legal() -> None:
    layer = benchmark.random_layer(9, 20, 3, torch.bfloat16, "cpu")
    layer.check_meta("layer")
    assert layer.rank == 3
    assert not layer.training
    s = layer.sparse_dense()
    formats.check_pattern(s, "2:4")
    assert torch.isfinite(layer(torch.randn(2, 20, dtype=torch.bfloat16))).all()


def test_contenders_take_turns() -> None:
    order: list[str] = []
    slow, fast = benchmark.alternating(
        [lambda: (order.append("slow"), time.sleep(0.02)), lambda: order.append("fast")], torch.device("cpu"), 3
    )
    assert order[:4] == ["slow", "fast"] * 2, "two rounds are not counted"
    assert order[4:] == ["slow", "fast", "fast", "slow", "slow", "fast"], "turns go forth and back"
    assert len(slow) == len(fast) == 3
    assert min(slow) >= 2e4, "times went to the wrong contender"


def test_timings_are_of_all_layers() -> None:
    layers = [benchmark.random_layer(32, 64, 2, torch.float32, "cpu") for _ in range(3)]
    calls: list[int] = []
    rows = benchmark.compare(layers, [1, 5], lambda: calls.append(1))
    assert [row.tokens for row in rows] == [1, 5]
    assert len(calls) == 2
    assert all(row.dense_us > 0 and row.compressed_us > 0 for row in rows)
    assert rows[0].divided(2).dense_us == rows[0].dense_us / 2
    assert rows[0].divided(2).ratio == pytest.approx(rows[0].ratio)
    with pytest.raises(ValueError, match="nothing to measure: 0 layers"):
        benchmark.compare([], [1])
    with pytest.raises(ValueError, match=r"tokens \[0\]"):
        benchmark.compare(layers, [0])


def test_bytes_are_those_of_the_parameters() -> None:
    layers = nn.ModuleList([benchmark.random_layer(32, 64, 2, torch.bfloat16, "cpu"), nn.Linear(3, 3)])
    assert benchmark.weight_bytes(layers) == (32 * 64 * 9 // 8 + 2 * 2 * (32 + 64), 2 * 32 * 64)


def test_reasons_name_what_is_missing() -> None:
    layer = benchmark.random_layer(8, 8, 1, torch.bfloat16, "cpu")
    assert benchmark.why_not_packed(layer) is None
    assert [benchmark.kernel_of(layer, tokens) for tokens in (1, 8, 9)] == ["rows", "rows", "unpack + dense"]
    s = torch.zeros(8, 8)
    s[0, :3] = 1
    bitmap = SparseLowRankLinear.from_decomposition(s, None, None, None, "0.5@matrix", torch.bfloat16)
    assert benchmark.why_not_packed(bitmap) is None
    dense = SparseLowRankLinear.from_decomposition(torch.ones(8, 8), None, None, None, "dense", torch.bfloat16)
    assert benchmark.why_not_packed(dense) == "format dense has no kernel yet"


def test_shape_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--shape", "2048x2048", "--rank", "2", "--tokens", "1, 3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["tokens"] for row in found["rows"]] == [1, 3]
    assert found["dense_weight_bytes"] == 2 * 2048 * 2048
    assert found["not_packed"] == []
    assert all(row["ratio"] > 0 for row in found["rows"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a compressed model or --shape"),
        (["folder", "--shape", "8x8"], "one of them"),
        (["--shape", "8by8"], "write D_OUTxD_IN"),
        (["--shape", "8x6"], "divisible by 4, got 6"),
        (["--shape", "8x8", "--tokens", "1,0"], "positive numbers"),
        (["--shape", "8x8", "--rank", "-1"], "must not be negative"),
        (["--shape", "8x8", "--device", "cuda"], "no GPU that torch can use"),
        (["nowhere"], "no model at nowhere"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_dense_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(["bench", str(tmp_path)]) == 2
    assert "is not a model that `sparlow compress` wrote" in capsys.readouterr().err


def test_parsing() -> None:
    assert parse_shape(" 4096X14336") == (4096, 14336)
    assert parse_tokens("1,8 , 64") == [1, 8, 64]
