"""The finished blocks of a run, kept on disk until the checkpoint is written: an interrupted run goes on from them.

A folder holds `run.json`, what the run is (the recipe, the calibration tokens, the weights), and for every finished
block one safetensors file and then one JSON file with its hash and records; a block without the latter is not finished.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from ._core import __version__
from .atomic import refused_by_disk
from .layers import SparseLowRankLinear
from .recipe import Recipe
from .records import LayerRecord, MatchingRecord
from .shards import tensor_bytes, write_shard
from .spec import LayerSpec

_RUN = "run.json"
_SAMPLES = 256  # of every weight, to tell models apart


@dataclass
class Finished:
    """A finished block: its layers and their records by name, and, if it was matched, how, and the vectors trained."""

    layers: dict[str, tuple[SparseLowRankLinear, LayerRecord]]
    matched: MatchingRecord | None = None
    vectors: dict[str, Tensor] = field(default_factory=dict)


class Journal:
    """The blocks of one run, by index, in `folder`."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        """Nothing is read or written yet. run: from `describe_run`."""
        self.folder, self._run = folder, dict(run)

    def check(self) -> None:
        """ValueError if the folder holds anything but blocks of this run; it is left as it is."""
        if (self.folder / _RUN).is_file():
            self._check_same(_read_json(self.folder / _RUN))
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ValueError(f"{self.folder} is not a folder of finished blocks; choose another place")

    def __contains__(self, index: int) -> bool:
        """Whether block `index` is finished."""
        return self._path(index, "json").is_file()

    def read(self, index: int) -> Finished | None:
        """Block `index`, its tensors on the CPU and mapped from the file; None if it is not finished.

        Raises ValueError if the file was altered or cut short.
        """
        if index not in self:
            return None
        sidecar, tensors = self._path(index, "json"), self._path(index, "safetensors")
        entry = _read_json(sidecar)
        if not tensors.is_file() or _sha256(tensors) != entry["sha256"]:
            raise ValueError(f"{tensors} is missing or was altered; delete {sidecar} to compress this block again")
        layers = {
            name: (_mapped(tensors, name, layer), LayerRecord(**layer["record"]))
            for name, layer in entry["layers"].items()
        }
        matched = None if entry["matched"] is None else MatchingRecord.from_dict(entry["matched"])
        with safe_open(tensors, framework="pt") as file:
            return Finished(layers, matched, {name: file.get_tensor(name) for name in entry["vectors"]})

    def write(self, index: int, block: Finished) -> dict[str, SparseLowRankLinear]:
        """Keep block `index`; its layers, on the CPU and mapped from the file.

        OSError, naming the folder, if the disk refuses; the blocks before it stay.
        """
        try:
            return self._write(index, block)
        except OSError as error:
            raise refused_by_disk(self.folder, error) from error

    def _write(self, index: int, block: Finished) -> dict[str, SparseLowRankLinear]:
        self._begin()
        path = self._path(index, "safetensors")
        tensors = {
            f"{name}.{key}": value
            for name, (layer, _) in block.layers.items()
            for key, value in layer.state_dict().items()
        }
        digest = write_shard(path, tensors | block.vectors)
        entries = {name: _entry(*pair) for name, pair in block.layers.items()}
        matched = None if block.matched is None else asdict(block.matched)
        sidecar = {"sha256": digest, "layers": entries, "matched": matched, "vectors": list(block.vectors)}
        _write_json(self._path(index, "json"), sidecar)
        return {name: _mapped(path, name, entry) for name, entry in entries.items()}

    def remove(self) -> None:
        """Delete its files, and the folder if that leaves it empty."""
        for path in (*self.folder.glob("block-*"), *self.folder.glob(f"{Path(_RUN).stem}.*")):
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, index: int, ending: str) -> Path:
        return self.folder / f"block-{index:05d}.{ending}"

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _RUN).is_file():
            _write_json(self.folder / _RUN, self._run)

    def _check_same(self, earlier: Mapping[str, Any]) -> None:
        if differences := _differences(earlier, self._run, ""):
            raise ValueError(
                f"{self.folder} holds finished blocks of another run ({differences[0]}); "
                "repeat that run to go on with it, delete the folder, or start again with restart=True (--restart)"
            )


def open_journal(
    folder: str | os.PathLike[str], model: PreTrainedModel, recipe: Recipe, calibration_hash: str | None, restart: bool
) -> Journal:
    """The journal of this run in `folder`, which need not exist. ValueError if it belongs to another run."""
    journal = Journal(Path(folder), describe_run(model, recipe, calibration_hash))
    if restart and (journal.folder / _RUN).is_file():
        journal.remove()
    else:
        journal.check()
    return journal


def tell_kept(error: BaseException, folder: str | os.PathLike[str]) -> None:
    """Note on an interruption that finished blocks are kept and what to do; not where the same would fail again."""
    count = len(list(Path(folder).glob("block-*.json")))
    if count == 0 or isinstance(error, ValueError):
        return
    blocks = "1 finished block is" if count == 1 else f"{count} finished blocks are"
    error.add_note(f"{blocks} kept in {folder}: run the same again to go on from there")


def describe_run(model: PreTrainedModel, recipe: Recipe, calibration_hash: str | None) -> dict[str, Any]:
    """What two runs must have in common to continue each other. Device and batch size may differ."""
    settings = recipe.published()
    del settings["device"], settings["calibration"]["batch"], settings["calibration"]["source"]
    return {
        "sparlow": __version__,
        "recipe": settings,
        "calibration_hash": calibration_hash,
        "weights": _fingerprint(model),
    }


def _fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 of names, types, shapes and some values of every parameter."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(tensor_bytes(flat[:: max(1, flat.numel() // _SAMPLES)]))
    return digest.hexdigest()


def _differences(earlier: Any, now: Any, place: str) -> list[str]:
    if isinstance(earlier, dict) and isinstance(now, dict):
        keys = [key for key in {**earlier, **now} if earlier.get(key) != now.get(key)]
        return [text for key in keys for text in _differences(earlier.get(key), now.get(key), f"{place}.{key}")]
    return [] if earlier == now else [f"{place.lstrip('.')} is {earlier!r} there and {now!r} here"]


def _entry(layer: SparseLowRankLinear, record: LayerRecord) -> dict[str, Any]:
    dtype = str(layer.weight_packed.dtype).removeprefix("torch.")
    return {"spec": layer.spec.to_dict(), "bias": layer.bias is not None, "dtype": dtype, "record": asdict(record)}


def _mapped(path: Path, name: str, entry: Mapping[str, Any]) -> SparseLowRankLinear:
    spec = LayerSpec.from_dict(name, entry["spec"])
    layer = SparseLowRankLinear(spec, entry["bias"], getattr(torch, entry["dtype"]), "meta")
    with safe_open(path, framework="pt") as file:
        state: dict[str, Tensor] = {key: file.get_tensor(f"{name}.{key}") for key in layer.state_dict()}
    layer.load_state_dict(state, assign=True)
    return layer


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete {path.parent} and start again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged (not a JSON object); delete {path.parent} and start again")
    return found


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Complete or not at all."""
    draft = path.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
