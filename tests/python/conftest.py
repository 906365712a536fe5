"""A small compressed model and its checkpoint folder, for the tests of checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkpoint_helpers import compress_randomly, metrics_of, tiny_model
from transformers import PreTrainedModel

import sparlow


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return compress_randomly(tiny_model())


@pytest.fixture(scope="module")
def reference(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint in several shards; copy it before damaging it."""
    folder = tmp_path_factory.mktemp("reference") / "model"
    return sparlow.save(model, folder, metrics=metrics_of(model), max_shard_bytes=6000)


@pytest.fixture
def folder(reference: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "model"))
