"""Reading calibration rows and token tensors from files and from the `datasets` library."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_TOKEN_KEYS = ("tokens", "input_ids")
_SHUFFLE_BUFFER = 10_000


def read_text(path: Path) -> str:
    """A UTF-8 file; ValueError naming it for other bytes, OSError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file, blank lines skipped. ValueError names the line that is not one."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not valid JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object, got a {type(row).__name__}")
            yield row


def read_tokens(path: Path) -> Tensor:
    """The token ids in a .pt, .npy or .safetensors file. Errors: OSError, ValueError if not one tensor."""
    if not path.is_file():
        raise FileNotFoundError(f"calibration source '{path}' does not exist")
    try:
        return _read_tensor(path)
    except (UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        raise ValueError(f"{path} is not a readable {path.suffix} file: {error}") from error


def _read_tensor(path: Path) -> Tensor:
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix == ".safetensors":
        return _only_tensor(path)
    value = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(value, Tensor):
        raise ValueError(f"{path}: expected one tensor of token ids, got a {type(value).__name__}")
    return value


def rows_of_dataset(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of a data set, streamed and shuffled by `seed`.

    name: "path", "path:configuration" or "path:configuration:split"; the split is "train" unless given.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise ValueError(
            f"calibration source '{name}' is no file here; to use it as the name of a data set, install the "
            f"'datasets' package (pip install datasets)"
        ) from error
    path, configuration, split = (*name.split(":"), "", "")[:3]
    rows = datasets.load_dataset(path, configuration or None, split=split or "train", streaming=True)
    yield from rows.shuffle(seed=seed, buffer_size=_SHUFFLE_BUFFER)


def _only_tensor(path: Path) -> Tensor:
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        key = next((name for name in _TOKEN_KEYS if name in names), names[0] if len(names) == 1 else None)
        if key is None:
            raise ValueError(f"{path}: expected one tensor, or one named 'tokens' or 'input_ids', got {names}")
        tensor: Tensor = file.get_tensor(key)
        return tensor
