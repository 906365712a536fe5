"""`python -m sparlow.bench`: running the compiled benchmarks, comparing and drawing their results."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sparlow.bench import comparison, lines, programs
from sparlow.bench.__main__ import main
from sparlow.bench.chart import chart

installed = pytest.mark.skipif(
    not (Path(programs.sparlow.__file__).parent / "bin").exists(), reason="built without SPARLOW_BENCH"
)


def _row(tokens: int, median: float, spread: float = 0.1, layer: str = "a", **more: Any) -> dict[str, Any]:
    seconds = {"q1": median * (1 - spread), "median": median, "q3": median * (1 + spread), "repeats": 5}
    case = {"device": "cpu", "layer": layer, "d_out": 8, "d_in": 4, "tokens": tokens}
    return {"kind": "row", "bench": "forward", "case": case, "seconds": seconds, "times_baseline": 1 / median} | more


def _file(path: Path, *rows: dict[str, Any], device: str = "a chip") -> Path:
    run = {"kind": "run", "bench": "forward", "sparlow": "0.1.0", "device": {"name": device}}
    path.write_text("".join(json.dumps(line) + "\n" for line in [run, {"kind": "ceiling"}, *rows]))
    return path


def test_rows_are_read(tmp_path: Path) -> None:
    results = lines.read(_file(tmp_path / "a.jsonl", _row(1, 2e-6), _row(8, 4e-6)))
    assert results.machine["name"] == "a chip"
    assert [row.case["tokens"] for row in results.rows] == [1, 8]
    first = results.rows[0]
    assert first.metric("us") == pytest.approx(2)
    assert first.metric("times_baseline") == pytest.approx(5e5)
    assert first.metric("tflops") is None
    with pytest.raises(ValueError, match="unknown metric 'seconds'; accepted: us, times_baseline"):
        first.metric("seconds")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no measurement"),
        ("{", "line 1 is not JSON"),
        ('{"a": 1}', "line 1 is not of a benchmark: it has no 'kind'"),
        ("[1]", "line 1 is not of a benchmark"),
        ('{"kind": "row", "bench": "forward", "case": {}}', "line 1: a row needs bench, case and seconds"),
        (json.dumps(_row(1, 1) | {"seconds": {"q1": 2, "median": 1, "q3": 3}}), "quartiles 2.0, 1.0, 3.0 are not"),
        (json.dumps(_row(1, 1)) + "\n" + json.dumps(_row(1, 2)), "line 2 measures the same case as a line before"),
    ],
)
def test_files_that_are_none_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        lines.read(path)


def test_only_what_leaves_the_spread_is_a_change(tmp_path: Path) -> None:
    before = _file(tmp_path / "a.jsonl", _row(1, 1.0), _row(2, 1.0), _row(4, 1.0), _row(8, 1.0))
    after = _file(tmp_path / "b.jsonl", _row(1, 1.15), _row(2, 1.3), _row(4, 0.5), _row(16, 1.0), device="another")
    found = comparison.compare(lines.read(before), lines.read(after))
    assert [change.verdict for change in found.changes] == ["within spread", "slower", "faster"]
    assert found.changes[1].ratio == pytest.approx(1.3)
    assert [row.case["tokens"] for row in found.only_before] == [8]
    assert [row.case["tokens"] for row in found.only_after] == [16]
    steady = [_file(tmp_path / f"{m}.jsonl", _row(1, m, 1e-4)) for m in (1.0, 1.008, 1.02)]
    first, near, far = map(lines.read, steady)
    assert comparison.compare(first, near).changes[0].verdict == "within spread"
    assert comparison.compare(first, far).changes[0].verdict == "slower"
    assert found.differing == ("name: a chip before, another after",)
    with pytest.raises(ValueError, match="have no case in common"):
        comparison.compare(lines.read(before), lines.read(_file(tmp_path / "c.jsonl", _row(3, 1.0))))


def test_compare_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = str(_file(tmp_path / "a.jsonl", _row(1, 1.0), _row(2, 1.0)))
    after = str(_file(tmp_path / "b.jsonl", _row(1, 1.4), _row(2, 1.01)))
    assert main(["compare", before, after]) == 0
    table = capsys.readouterr().out
    assert "1.400" in table
    assert table.count("slower") == 1
    assert main(["compare", before, after, "--json", "--fail-above", "1.3"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [change["verdict"] for change in found["changes"]] == ["slower", "within spread"]
    assert main(["compare", before, after, "--fail-above", "1.5"]) == 0
    capsys.readouterr()
    assert main(["compare", before, str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err == f"sparlow.bench: error: {tmp_path / 'nothing'}: No such file or directory\n"


def test_a_chart_has_a_curve_for_every_layer(tmp_path: Path) -> None:
    rows = [_row(tokens, tokens * 1e-6, layer=layer) for layer in ("q", "k") for tokens in (1, 16, 256)]
    path = _file(tmp_path / "a.jsonl", *rows)
    assert main(["plot", str(path), "-o", str(tmp_path / "c.svg"), "--y", "us"]) == 0
    curves = ElementTree.parse(tmp_path / "c.svg").findall("{http://www.w3.org/2000/svg}polyline")
    assert len(curves) == 2
    (x1, _), (x2, _), (x3, _) = (tuple(map(float, p.split(","))) for p in curves[0].attrib["points"].split())
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.05)  # equal ratios are equal distances
    with pytest.raises(ValueError, match="has tflops and a number 'tokens'; there are d_in, d_out, tokens"):
        chart(lines.read(path), "tokens", "tflops")
    with pytest.raises(ValueError, match="a number 'layer'"):
        chart(lines.read(path), "layer", "us")


def test_mistakes_are_explained(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["forwards"]) == 2
    assert "unknown benchmark 'forwards'; there are forward, project" in capsys.readouterr().err
    monkeypatch.setattr(programs.sparlow, "__file__", "/nowhere/sparlow/__init__.py")
    assert main(["forward"]) == 1
    assert "installed without bench_forward" in capsys.readouterr().err
    assert main([]) == 0
    assert "compare BEFORE AFTER" in capsys.readouterr().out


def test_interrupting_a_program_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("subprocess.run", interrupt)
    assert main(["forward"]) == 130
    assert capsys.readouterr().err == "sparlow.bench: interrupted\n"


@installed
def test_a_program_writes_what_can_be_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.jsonl"
    assert main(["project", "--smoke", "--patterns", "2:4,0.5@row", "--out", str(out)]) == 0
    assert "96x64 0.5@row" in capfd.readouterr().out
    results = lines.read(out)
    assert [row.case["pattern"] for row in results.rows] == ["2:4", "0.5@row"]
    assert results.machine["threads"] >= 1
    assert json.loads(out.read_text().splitlines()[0])["command"].endswith("--out p.jsonl")
    assert all(row.metric("gbytes_per_s") for row in results.rows)


@installed
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("forward", ["--token", "1"], "unknown option --token; did you mean --tokens?"),
        ("forward", ["--model", "llama-9"], "unknown model 'llama-9'"),
        ("forward", ["--model", "llama-3-8b", "--shapes", "8x8"], "give one of them"),
        ("forward", ["--shapes", "8x6"], "divisible by 4, got 6"),
        ("project", ["--patterns", "2:5", "--shapes", "8x8"], "2:5"),
        ("factor", ["--operations", "svd", "--smoke"], "unknown 'svd'; accepted: gram, factor"),
        ("solvers", ["--methods", "threebasi"], "did you mean 'threebasil'"),
        ("solvers", ["--threads", "x"], "--threads: 'x' is not a whole number"),
    ],
)
def test_programs_explain_mistakes(name: str, arguments: list[str], message: str) -> None:
    done = subprocess.run([programs.program(name), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"bench_{name}: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
