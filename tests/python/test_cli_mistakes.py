"""What users get wrong, and damaged folders: one line that names the thing and says what to do."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_folder import write_text, write_tiny_folder

from sparlow import api
from sparlow.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, `text.txt` and the checkpoint `small`."""
    folder = tmp_path_factory.mktemp("mistakes")
    write_tiny_folder(folder / "model")
    write_text(folder / "text.txt")
    assert main([*compressing(folder), "--method", "magnitude", "-o", str(folder / "small")]) == 0
    return folder


@pytest.fixture
def damaged(place: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    return shutil.copytree(place / "small", tmp_path / "damaged")


def compressing(place: Path) -> list[str]:
    sizes = ["--windows", "8", "--window-tokens", "32"]
    return ["compress", str(place / "model"), "--calibration", str(place / "text.txt"), *sizes]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 2) -> str:
    """The one line on stderr of a command that fails."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("sparlow: error: ")
    return captured.err.removeprefix("sparlow: error: ").rstrip("\n")


@pytest.mark.parametrize("command", ["inspect", "eval", "generate", "bench"])
def test_damaged_files_are_named(command: str, place: Path, damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more: dict[str, list[str | Path]] = {"eval": ["--text", place / "text.txt"], "generate": ["The"]}
    arguments = [command, damaged, *more.get(command, [])]
    manifest, config = ((damaged / name).read_text() for name in ("sparlow.json", "config.json"))
    (damaged / "sparlow.json").write_text("{}")
    assert f"{damaged / 'sparlow.json'}: format_version must be" in refusal(capsys, *arguments)
    (damaged / "sparlow.json").write_text(manifest)
    (damaged / "config.json").write_text("{")
    assert f"{damaged / 'config.json'} is not valid JSON" in refusal(capsys, *arguments)
    (damaged / "config.json").unlink()
    assert f"{damaged} has no config.json" in refusal(capsys, *arguments)
    (damaged / "config.json").write_text(config)
    shard = damaged / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    message = refusal(capsys, *arguments)
    assert "truncated" in message
    assert str(damaged) in message
    shard.unlink()
    assert f"model.safetensors is missing from {damaged}" in refusal(capsys, *arguments)


@pytest.mark.parametrize("source", ["small", "model"])
def test_a_folder_without_a_tokenizer_is_named(
    source: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(place / source, tmp_path / source)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert refusal(capsys, "eval", folder, "--text", place / "text.txt").startswith(f"{folder} has no tokenizer")
    assert refusal(capsys, "generate", folder, "The").startswith(f"{folder} has no tokenizer")


def test_devices_that_are_none(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for device in ("mps", "meta", "turbo", "cpu:1:2"):
        message = refusal(capsys, "generate", place / "model", "The", "--device", device)
        assert message == f"unknown device {device!r}: use cpu, cuda or cuda:N"
    assert "cuda:99" in refusal(capsys, "bench", "--shape", "32x32", "--device", "cuda:99")


def test_texts_that_are_none(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    sizes = ["--rank", "4", "--window-tokens", "32"]
    arguments = ["compress", place / "model", "-o", tmp_path / "out", *sizes, "--calibration", text]
    text.write_bytes(b"caf\xe9 " * 50)
    assert refusal(capsys, *arguments) == f"{text} is not UTF-8 text (byte 3)"
    text.write_text("short")
    assert refusal(capsys, *arguments).endswith("give more text, or lower calibration.window_tokens to 5")
    text.write_text("a" * 100)
    assert refusal(capsys, *arguments).endswith("give more text, or lower calibration.windows to 3 or window_tokens")
    text.write_text("")
    assert f"{text} is empty" in refusal(capsys, "eval", place / "model", "--text", text)
    message = refusal(capsys, *arguments[:-2])
    assert "method 'threebasil' needs calibration data" in message
    assert "--calibration" in message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--pattern", "foo"], "recipe: pattern 'foo' is not a pattern"),
        (["--rank", "-1"], "recipe: rank: Input should be greater than or equal to 0, got -1"),
        (["--budget", "1.5"], "recipe: budget: Input should be less than or equal to 1, got 1.5"),
        (["--dtype", "int8"], "Invalid value for '--dtype': 'int8' is not one of 'bfloat16', 'float16', 'float32'."),
    ],
)
def test_settings_that_are_none(
    more: list[str], message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, *compressing(place), "-o", tmp_path / "out", *more).startswith(message)


def test_a_rank_that_does_not_fit_the_shape(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "bench", "--shape", "32x64", "--rank", "33")
    assert message == "--rank 33 is larger than min(d_out, d_in) = 32 of --shape 32x64; lower it"


def test_a_file_system_that_refuses_is_no_mistake_of_the_user(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (errno.ENOSPC, errno.EFBIG, errno.EROFS):

        def refuse(*_args: object, number: int = number, **_rest: object) -> None:
            raise OSError(number, f"could not write out: errno {number}")

        monkeypatch.setattr(api, "compress", refuse)
        assert f"errno {number}" in refusal(capsys, *compressing(place), "-o", tmp_path / "out", code=1)


def test_one_layer_is_one_layer(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*compressing(place), "--include", "model.layers.0.mlp.up_proj", "-o", str(tmp_path / "out")]
    assert main([*arguments, "--method", "magnitude"]) == 0
    assert "\n1 layer: " in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["layers"]) == 1


@pytest.mark.parametrize("command", ["compress", "eval", "generate"])
def test_a_dense_model_that_is_not_whole_is_refused(
    command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = str(place / "text.txt")
    more = {"compress": ["--calibration", text, "-o", str(tmp_path / "out")], "eval": ["--text", text]}
    folder = shutil.copytree(place / "model", tmp_path / "model")
    arguments = [command, folder, *more.get(command, ["The"])]
    shard = folder / "model.safetensors"
    tensors = load_file(shard)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, shard, metadata={"format": "pt"})
    message = refusal(capsys, *arguments)
    assert message.startswith(f"{folder} lacks 1 tensor of its model: model.layers.1.mlp.up_proj.weight;")
    shard.write_bytes(shard.read_bytes()[:-100])
    message = refusal(capsys, *arguments)
    assert message.startswith(f"{folder}: a file of weights is truncated or damaged (")
    (folder / "config.json").unlink()
    assert refusal(capsys, *arguments).startswith(f"{folder} has no config.json")
