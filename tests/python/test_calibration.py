"""Calibration windows from every source, the seed, the hash, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sparlow.calibration import load_windows
from sparlow.recipe import Calibration


class CharTokenizer:
    """One token per character; 0 ends a text."""

    eos_token_id = 0
    chat_template: str | None = "yes"

    def __call__(self, text: str, **_settings: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}

    def apply_chat_template(self, messages: list[dict[str, str]], **_settings: bool) -> str:
        return "".join(f"<{m['role']}>{m['content']}" for m in messages)


def _settings(source: Path | str | None = None, **changes: Any) -> Calibration:
    return Calibration(source=None if source is None else str(source), **{"windows": 2, "window_tokens": 4, **changes})


def _text(ids: torch.Tensor) -> str:
    return "".join(chr(i) if i else "|" for i in ids.flatten().tolist())


def test_text_file_is_cut_into_windows_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefghij")
    windows = load_windows(_settings(tmp_path / "a.txt"), tokenizer=CharTokenizer())
    assert [_text(row) for row in windows.ids] == ["abcd", "efgh"]
    assert windows.ids.dtype == torch.int64


def test_jsonl_field(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "abc"}\n\n{"body": "defg"}\n')
    windows = load_windows(_settings(tmp_path / "a.jsonl", field="body"), tokenizer=CharTokenizer())
    assert _text(windows.ids) == "abc|defg"


def test_jsonl_chat_goes_through_the_template(tmp_path: Path) -> None:
    row = {"messages": [{"role": "u", "content": "hi"}, {"role": "a", "content": "yo!!"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    windows = load_windows(_settings(tmp_path / "a.jsonl", windows=3), tokenizer=CharTokenizer())
    assert _text(windows.ids) == "<u>hi<a>yo!!"


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".safetensors"])
def test_token_files_need_no_tokenizer(tmp_path: Path, suffix: str) -> None:
    path, tokens = tmp_path / f"tokens{suffix}", torch.arange(9, dtype=torch.int32)
    if suffix == ".pt":
        torch.save(tokens, path)
    elif suffix == ".npy":
        np.save(path, tokens.numpy())
    else:
        save_file({"input_ids": tokens, "mask": torch.ones(9)}, path)
    assert load_windows(_settings(path)).ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_token_tensor_as_stream_and_as_windows() -> None:
    stream = load_windows(_settings(), tokens=torch.arange(8))
    ready = load_windows(_settings(), tokens=torch.arange(8).reshape(2, 4))
    assert torch.equal(stream.ids, ready.ids)
    assert stream.hash == ready.hash


def test_the_seed_decides_the_draw() -> None:
    tokens = torch.arange(4000)
    first, again, other = (load_windows(_settings(windows=8), tokens=tokens, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.ids, other.ids)
    assert first.hash == again.hash != other.hash
    assert (first.ids[:, 0] % 4 == 0).all()
    assert (first.ids.diff(dim=1) == 1).all()
    assert len(set(first.ids[:, 0].tolist())) == 8


def test_hash_tells_shapes_apart() -> None:
    tokens = torch.arange(8)
    two_by_four = load_windows(_settings(), tokens=tokens)
    four_by_two = load_windows(_settings(windows=4, window_tokens=2), tokens=tokens)
    assert two_by_four.hash != four_by_two.hash


class _Rows(list[dict[str, str]]):
    def shuffle(self, **_settings: int) -> Iterator[dict[str, str]]:
        yield from self
        raise AssertionError("read more rows than needed")


def test_data_set_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> _Rows:
        asked.append((args, kwargs))
        return _Rows([{"text": "abc"}, {"text": "defg"}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    windows = load_windows(_settings("some/corpus:en:validation"), tokenizer=CharTokenizer())
    assert _text(windows.ids) == "abc|defg"
    assert asked == [(("some/corpus", "en"), {"split": "validation", "streaming": True})]


def test_data_set_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="install the 'datasets' package"):
        load_windows(_settings("some/corpus"), tokenizer=CharTokenizer())


def test_empty_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"a\.txt' is empty: it holds 0 tokens"):
        load_windows(_settings(tmp_path / "a.txt"), tokenizer=CharTokenizer())


def test_short_text_gives_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefg")
    with pytest.raises(ValueError, match=r"holds 7 tokens, 2 windows of 4 need 8; .* lower .* to 1"):
        load_windows(_settings(tmp_path / "a.txt"), tokenizer=CharTokenizer())


def test_no_source() -> None:
    with pytest.raises(ValueError, match="no calibration data"):
        load_windows(_settings())


def test_text_without_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    with pytest.raises(ValueError, match="there is no tokenizer"):
        load_windows(_settings(tmp_path / "a.txt"))


@pytest.mark.parametrize("name", ["missing.txt", "missing.jsonl", "missing.npy"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=name):
        load_windows(_settings(tmp_path / name), tokenizer=CharTokenizer())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ("[1]", "line 1: expected a JSON object, got a list"),
        ('{"body": "x"}', "row 1 has no field 'text' .it has: body."),
        ('{"text": 3}', "field 'text' of calibration row 1 is a int"),
    ],
)
def test_bad_jsonl(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        load_windows(_settings(tmp_path / "a.jsonl"), tokenizer=CharTokenizer())


def test_chat_without_a_template(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "u", "content": "hi"}]}')
    tokenizer = CharTokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        load_windows(_settings(tmp_path / "a.jsonl"), tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(8), "must be integers, got torch.float32"),
        (torch.zeros(2, 5, dtype=torch.long), "windows of 5 tokens, .* window_tokens=4"),
        (torch.zeros(2, 2, 2, dtype=torch.long), "got 3-D"),
    ],
)
def test_bad_tokens(tokens: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_windows(_settings(), tokens=tokens)


def test_token_file_with_something_else(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="expected one tensor of token ids, got a dict"):
        load_windows(_settings(tmp_path / "a.pt"))
    save_file({"a": torch.zeros(3), "b": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="expected one tensor, or one named 'tokens'"):
        load_windows(_settings(tmp_path / "a.safetensors"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("abc")
    with pytest.raises(ValueError, match=r"a\.csv': expected \.txt, \.jsonl"):
        load_windows(_settings(tmp_path / "a.csv"), tokenizer=CharTokenizer())


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".safetensors"])
def test_damaged_token_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tokens{suffix}"
    path.write_bytes(b"not tokens")
    with pytest.raises(ValueError, match=r"tokens\.|pickled"):
        load_windows(_settings(path))
