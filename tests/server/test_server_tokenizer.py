"""The server's tokenizer against the library that wrote the file, token for token."""

from __future__ import annotations

import json
import random
import subprocess
import unicodedata
from pathlib import Path

import pytest
from server_process import BUILD
from tokenizer_files import ROOT, SPLITS, write_tokenizer
from tokenizers import Tokenizer

PIECES = [
    *" \t\n\r\u00a0\u3000'\"<|>-_.,;:!?()[]{}0123456789²½ⅷ٣",
    *"aAzZéÉßñøĲŉſ漢字かな한글عربىहिन्दीไทยΩδЖ",
    *["e\u0301", "n\u0303", "\u1100\u1161", "\u212b", "\ufb01", "\u0958", "👩\u200d👩\u200d👧", "🇫🇷", "\U0001d7d9"],
    *[
        "\x00",
        "\x01",
        "\x7f",
        "\ufffd",
        "\u2028",
        "\ufeff",
        "  ",
        "\n\n",
        "   \n",
        "'s",
        "'LL",
        " the",
        "ing",
        " 12345",
    ],
    *["<|end|>", "<|end|>s", "<|begin|>", "<é think>", "<e\u0301 think>", "sparlow", " checkpoint", "rank 64"],
]


def random_texts(count: int, seed: int) -> list[str]:
    """Mixtures of what tokenizers stumble over, any assigned characters, and cuttings of real text."""
    chance = random.Random(seed)
    page = (ROOT / "README.md").read_text()
    texts = ["", " ", "a", "\n"]
    while len(texts) < count:
        kind, length = chance.random(), chance.randrange(1, 60)
        if kind < 0.6:
            texts.append("".join(chance.choice(PIECES) for _ in range(length)))
        elif kind < 0.8:
            texts.append("".join(_character(chance) for _ in range(length)))
        else:
            start = chance.randrange(len(page))
            texts.append(page[start : start + 4 * length])
    return texts


def _character(chance: random.Random) -> str:
    """Any that Unicode 14 knows; the tables of newer versions differ from library to library."""
    while True:
        character = chr(chance.randrange(0x110000))
        if unicodedata.category(character) not in {"Cn", "Cs"}:
            return character


def run(file: Path, texts: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BUILD / "tokenize", file], input=json.dumps(texts), capture_output=True, text=True, check=False
    )


def compare(file: Path, reference: Tokenizer, texts: list[str]) -> None:
    done = run(file, texts)
    assert done.returncode == 0, done.stderr
    for text, answer in zip(texts, json.loads(done.stdout), strict=True):
        ids = reference.encode(text).ids
        assert answer["ids"] == ids, text
        assert answer["text"] == reference.decode(ids), text


@pytest.mark.parametrize("kind", SPLITS)
def test_equals_the_library(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    compare(file, write_tokenizer(file, kind, 1000), random_texts(3000, seed=1))


@pytest.mark.parametrize("parts", [[], ["NFC"], ["NFC", "NFC"]])
def test_a_sequence_of_normalizers(parts: list[str], folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    normalizer = {"type": "Sequence", "normalizers": [{"type": part} for part in parts]}
    file.write_text(json.dumps({**json.loads((folder / "tokenizer.json").read_text()), "normalizer": normalizer}))
    compare(file, Tokenizer.from_file(str(file)), random_texts(300, seed=2))


def test_a_word_as_long_as_a_request(folder: Path) -> None:
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    compare(folder / "tokenizer.json", reference, ["the" * 100_000, " " * 300_000 + "a", "<" * 100_000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "normalizer: Lowercase is not implemented"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}},
            "normalizer: Strip is not implemented",
        ),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer: Metaspace is not implemented"),
        ({"pre_tokenizer": None}, "pre_tokenizer: none at all is not implemented"),
        ({"decoder": {"type": "WordPiece"}}, "decoder: WordPiece is not implemented"),
        ({"post_processor": {"type": "BertProcessing"}}, "post_processor: BertProcessing is not implemented"),
        ({"model": {"type": "Unigram"}}, "model: type 'Unigram' is not implemented; only BPE is"),
        ({"model": {"type": "BPE", "byte_fallback": True}}, "model: byte_fallback true is not implemented"),
        (
            {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}},
            "model: merge 'a' 'b' has a token that is not in vocab",
        ),
        (
            {"added_tokens": [{"id": 1, "content": "<mask>", "lstrip": True}]},
            "added token <mask>: lstrip is not implemented",
        ),
    ],
)
def test_refuses_by_name(folder: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({**json.loads((folder / "tokenizer.json").read_text()), **change}))
    done = run(file, ["a"])
    assert (done.returncode, done.stderr.strip()) == (1, f"{file}: {message}")
