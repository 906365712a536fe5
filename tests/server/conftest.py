"""The programs that scripts/test-server builds, and a folder with a tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import BUILD, Server
from tokenizer_files import write_tokenizer


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    if not (BUILD / "fake_server").exists():
        assert "CI" not in os.environ, f"{BUILD} is missing: scripts/test-server builds it"
        pytest.skip("run scripts/test-server, which builds the server")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder named `small` with a tokenizer of at most 1000 tokens."""
    path = tmp_path_factory.mktemp("models") / "small"
    path.mkdir()
    write_tokenizer(path / "tokenizer.json", "smollm2", 1000)
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server(folder) as running:
        yield running
