"""The commands, end to end on a tiny model: what they print, write and refuse."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_folder import POSITIONS, write_text, write_tiny_folder
from transformers import AutoTokenizer

import sparlow
from sparlow import api, checkpoint
from sparlow.cli import main
from sparlow.cli.output import CompressionProgress
from sparlow.evaluate import encode, perplexity

LAYERS = 14


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folder with `model`, `text.txt` and the checkpoint `small` made by `compress`."""
    folder = tmp_path_factory.mktemp("cli")
    write_tiny_folder(folder / "model")
    write_text(folder / "text.txt")
    assert main(compress_arguments(folder, "-o", str(folder / "small"))) == 0
    return folder


def compress_arguments(folder, *more: str) -> list[str]:
    sizes = ["--rank", "4", "--windows", "8", "--window-tokens", "32"]
    return ["compress", str(folder / "model"), "--calibration", str(folder / "text.txt"), *sizes, *more]


def run_json(capsys, *arguments: str):
    """What a command prints with --json."""
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def refused(capsys, *arguments: str, code: int = 2) -> str:
    """The one line on stderr of a command that fails."""
    assert main(list(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("sparlow: ")
    return captured.err


def test_compress_reports_every_layer_and_writes_what_it_reports(place, capsys):
    out = str(place / "again")
    found = run_json(capsys, *compress_arguments(place, "-o", out))
    assert [layer["pattern"] for layer in found["layers"]] == ["2:4"] * LAYERS
    assert all(0 < layer["relative_loss"] < 1 and layer["rank"] == 4 for layer in found["layers"])
    assert found["recipe"]["calibration"]["windows"] == 8
    assert len(found["calibration_hash"]) == 64
    inspected = run_json(capsys, "inspect", out)
    assert inspected["layer_bytes"] == found["stored_bytes"] == sum(x["stored_bytes"] for x in inspected["layers"])
    assert inspected["dense_layer_bytes"] == found["dense_bytes"]


def test_compress_prints_a_row_per_layer(place, capsys):
    assert (
        main(compress_arguments(place, "-o", str(place / "small"), "--overwrite", "--method", "wanda", "--rank", "0"))
        == 0
    )
    captured = capsys.readouterr()
    assert captured.out.count("wanda") == LAYERS
    assert f"Checkpoint: {place / 'small'}" in captured.out
    assert captured.err == ""
    assert main(compress_arguments(place, "-o", str(place / "small"), "--overwrite")) == 0


def test_flags_override_the_recipe(place, capsys):
    recipe = place / "recipe.yaml"
    recipe.write_text(
        "method: wanda\npattern: '4:8'\nexclude: ['re:.*mlp.*']\ncalibration: {windows: 3, window_tokens: 32}\n"
    )
    arguments = ["compress", str(place / "model"), "--recipe", str(recipe), "--calibration", str(place / "text.txt")]
    found = run_json(capsys, *arguments, "--pattern", "1:4", "-o", str(place / "mixed"))
    assert {(layer["method"], layer["pattern"], layer["rank"]) for layer in found["layers"]} == {("wanda", "1:4", 0)}
    assert len(found["layers"]) == 8
    assert found["recipe"]["calibration"]["windows"] == 3


def test_options_of_the_method_are_passed_on(place, capsys):
    arguments = compress_arguments(place, "-o", str(place / "short"), "--option", "iterations=7")
    assert {layer["iterations"] for layer in run_json(capsys, *arguments)["layers"]} == {7}


def test_a_choice_is_given_by_name(place, capsys):
    arguments = ["--method", "hassle_free", "--option", "pruner=alps", "--option", "iterations=2"]
    found = run_json(capsys, *compress_arguments(place, "-o", str(place / "alps"), *arguments))
    assert found["recipe"]["options"] == {"pruner": "alps", "iterations": 2}
    assert {layer["iterations"] for layer in found["layers"]} == {2}
    wrong = ["--method", "hassle_free", "--option", "pruner=wanda"]
    assert main(compress_arguments(place, "-o", str(place / "never"), *wrong)) != 0
    assert "pruner = 'wanda' is not one of sparsegpt, alps" in capsys.readouterr().err


def test_dry_run_lists_the_layers_and_writes_nothing(place, capsys):
    out = place / "never"
    found = run_json(capsys, *compress_arguments(place, "--dry-run", "-o", str(out), "--include", "re:.*q_proj"))
    assert [layer["name"] for layer in found["layers"]] == [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
    assert found["peak_bytes"] > 0
    assert found["seconds"] > 0
    assert main(compress_arguments(place, "--dry-run")) == 0
    assert capsys.readouterr().out.count("2:4") == LAYERS
    assert not out.exists()


def test_matching_is_a_flag_and_reported(place, capsys):
    out = str(place / "matched")
    arguments = compress_arguments(place, "-o", out, "--matching-option", "epochs=2", "--matching-option", "batch=2")
    assert main([*arguments, "--json"]) == 0  # on stderr it may say that so little data did not help
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["matching"]["epochs"] == 2
    assert [entry["block"] for entry in found["matching"]] == ["model.layers.0", "model.layers.1"]
    assert run_json(capsys, "report", out, "--plot", str(place / "loss.svg"))["matching"][0]["curve"][2]["number"] == 2
    assert (place / "loss.svg").read_text().count("<polyline") == 2
    assert main(["report", str(out)]) == 0
    assert "model.layers.1" in capsys.readouterr().out
    assert main(["inspect", str(out)]) == 0
    assert "2 blocks were matched" in capsys.readouterr().out
    assert "## Matching" in (place / "matched" / "README.md").read_text()
    assert main(compress_arguments(place, "--matching", "--dry-run")) == 0
    assert "Matching: up to" in capsys.readouterr().out


def test_matching_flags_that_make_no_sense(place, capsys):
    flags = ["--dry-run", "--no-matching", "--matching-option", "epochs=2"]
    assert main(compress_arguments(place, *flags)) == 2
    assert "contradict each other" in capsys.readouterr().err
    assert main(["report", str(place / "small"), "--plot", str(place / "loss.svg")]) == 2
    assert "made without matching" in capsys.readouterr().err


def test_eval_puts_models_side_by_side(place, capsys):
    models = [str(place / "model"), str(place / "small")]
    found = run_json(capsys, "eval", *models, "--text", str(place / "text.txt"), "--window", "32", "--batch", "4")
    loaded = checkpoint.load(place / "small", dtype=torch.float32)
    tokens = encode(AutoTokenizer.from_pretrained(models[1]), (place / "text.txt").read_text())
    assert [entry["model"] for entry in found["models"]] == models
    assert found["models"][1]["perplexity"] == pytest.approx(perplexity(loaded, tokens, 32), rel=1e-5)
    assert main(["eval", *models, "--text", str(place / "text.txt"), "--windows", "3"]) == 0
    assert f"3 windows of {POSITIONS} tokens" in capsys.readouterr().out


def test_generate_continues_the_prompt(place, capsys):
    found = run_json(capsys, "generate", str(place / "small"), "The quick", "--max-new-tokens", "3")
    assert main(["generate", str(place / "small"), "The quick", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out == f"The quick{found['text']}\n"


def test_methods_lists_the_registry(capsys):
    found = run_json(capsys, "methods")
    assert [entry["name"] for entry in found] == [method.name for method in sparlow.methods()]
    assert main(["methods"]) == 0
    text = " ".join(capsys.readouterr().out.split())  # long cells are wrapped
    assert all(method.citation in text for method in sparlow.methods())


def test_inspect_prints_bytes_without_loading_weights(place, capsys, monkeypatch):
    monkeypatch.setattr("sparlow.checkpoint.load", lambda *_args, **_options: pytest.fail("weights were loaded"))
    assert main(["inspect", str(place / "small")]) == 0
    text = capsys.readouterr().out
    assert text.count("nm24") == LAYERS
    assert "weights read per token" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "threebasill"], "threebasil"),
        (["--pattern", "3:2"], "3:2"),
        (["--rank", "33"], "rank 33"),
        (["--budget", "0.7", "--pattern", "2:9"], "9"),
        (["--option", "iterations"], "name=value"),
        (["--option", "iteratons=3"], "iterations"),
        (["--include", "model.layers.7.mlp.up_proj"], "model.layers.7.mlp.up_proj"),
        (["--windows", "5000"], "too short"),
        (["--windows", "many"], "--windows"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--device", "cuda:99"], "cuda:99"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(place, capsys, more, message):
    arguments = [a for a in compress_arguments(place) if not ("--budget" in more and a in ("--rank", "4"))]
    assert message in refused(capsys, *arguments, "-o", str(place / "bad"), *more)
    assert not list(place.glob("*bad*"))


def test_other_mistakes_end_in_one_line(place, capsys):
    text, model, small = (str(place / name) for name in ("text.txt", "model", "small"))
    assert "--output" in refused(capsys, *compress_arguments(place))
    assert "--overwrite" in refused(capsys, *compress_arguments(place, "-o", small))
    assert "missing.txt: No such file" in refused(capsys, "eval", model, "--text", str(place / "missing.txt"))
    assert "nowhere" in refused(capsys, "inspect", str(place / "nowhere"))
    assert "already compressed" in refused(capsys, "compress", small, "-o", str(place / "x"), "--calibration", text)
    assert "2000 tokens, fewer" in refused(capsys, "eval", model, "--text", text, "--window", "3000")
    assert "turbo" in refused(capsys, "generate", model, "a", "--device", "turbo")
    assert "no model at /no/such/model" in refused(capsys, "compress", "/no/such/model", "-o", str(place / "x"))
    assert "no model at ./model.gguf" in refused(capsys, "generate", "./model.gguf", "a")
    (place / "latin.txt").write_bytes(b"caf\xe9 " * 50)
    assert "latin.txt is not UTF-8" in refused(capsys, "eval", model, "--text", str(place / "latin.txt"))


def test_failures_of_the_machine_have_another_code(place, capsys, monkeypatch):
    def no_memory(*_args, **_kwargs):
        raise MemoryError("the solver needs 123 bytes")

    monkeypatch.setattr(api, "compress", no_memory)
    assert "123 bytes" in refused(capsys, *compress_arguments(place, "-o", str(place / "x")), code=1)


def test_an_interrupted_run_goes_on_from_its_blocks(place, capsys, monkeypatch):
    def interrupt(self, record):
        if self.blocks_seen == 2:
            raise KeyboardInterrupt
        real_layer(self, record)

    def count(self, index):
        self.blocks_seen = index + 1
        real_block(self, index)

    shown = CompressionProgress
    real_layer, real_block = shown.layer, shown.block
    arguments = compress_arguments(place, "-o", str(place / "resumed"))
    with monkeypatch.context() as patch:
        patch.setattr(shown, "layer", interrupt)
        patch.setattr(shown, "block", count)
        kept = place / "resumed.blocks"
        message = refused(capsys, *arguments, code=130)
        assert f"interrupted; 1 finished block is kept in {kept}: run the same again" in message
    assert "is 4 there and 3 here" in refused(capsys, *arguments, "--rank", "3", code=2)
    assert main(arguments) == 0
    assert not kept.exists()
    assert (place / "resumed" / "sparlow.json").is_file()


def test_interrupting_says_what_is_left(tmp_path):
    write_tiny_folder(tmp_path / "model", blocks=30)
    write_text(tmp_path / "text.txt", 40_000)
    arguments = compress_arguments(
        tmp_path, "-o", str(tmp_path / "out"), "--windows", "1000", "--option", "iterations=2000"
    )
    before = sorted(tmp_path.iterdir())
    code = "import sys; from sparlow.cli import main; print('ready', flush=True); sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    kept = tmp_path / "out.blocks"
    if kept.exists():
        assert re.fullmatch(rf"sparlow: interrupted; \d+ finished blocks? \w+ kept in {kept}: .*\n", errors)
        before.append(kept)
    else:
        assert errors == "sparlow: interrupted; nothing half-written was left behind\n"
    assert sorted(tmp_path.iterdir()) == sorted(before)


def test_the_package_runs_as_a_module_and_tells_its_version():
    done = subprocess.run(
        [sys.executable, "-m", "sparlow", "--version"], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout == f"sparlow {sparlow.__version__}\n"


def test_cmake_dir_is_where_the_package_configuration_lies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cmake-dir"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert {"sparlowConfig.cmake", "sparlowTargets.cmake"} <= {path.name for path in folder.iterdir()}
    package = folder.parents[2]
    assert (package / "include" / "sparlow" / "solvers.hpp").is_file()
    assert (package / "lib" / "libsparlow.so.0").is_file()
