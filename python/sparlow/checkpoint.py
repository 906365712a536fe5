"""Save and load a compressed model as a Hugging Face folder.

config.json (with `quantization_config`), safetensors shards of plain tensors, generation config, tokenizer,
metrics.jsonl (one line per layer, then one per matched block), README.md and, last, sparlow.json with size and
sha256 of every shard.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparlow import card, hf
from sparlow._core import __version__
from sparlow.atomic import new_folder
from sparlow.device import missing_gpu
from sparlow.inspect import inspect_unfinished
from sparlow.manifest import MANIFEST_NAME, Manifest, ShardRecord, read_manifest
from sparlow.shards import write_shard
from sparlow.stacks import unstack
from sparlow.state import split_shards, stored_config, stored_tensors
from sparlow.verify import INDEX_NAME, SINGLE_SHARD, check_folder

METRICS_NAME = "metrics.jsonl"
EVALUATION_NAME = "evaluation.json"


@dataclass
class CheckpointInfo:
    """What a checkpoint says about its making; a loaded model carries it on as `sparlow_info`."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None
    base_model: str | None = None
    calibration_hash: str | None = None


def save(
    compressed: Any,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    *,
    metrics: Iterable[Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    evaluation: Mapping[str, Any] | None = None,
    base_model: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Write a checkpoint folder and return its path. The folder appears complete or not at all.

    compressed   a `Compressed`, or a transformers model with compressed layers
    metrics      one record (dataclass or mapping) per layer or matched block; default: those of `compressed`
    evaluation   figures for the card, e.g. {"perplexity": {"dense": 12.3, "compressed": 13.0}}
    base_model   hub name of the dense model, for the card

    Raises FileExistsError if the folder exists and `overwrite` is False, ValueError if the model has no
    compressed layer or carries adapters, OSError if the disk refuses. After any failure nothing is left
    behind, and a folder that was to be replaced is still there.
    """
    model = _model_of(compressed)
    tokenizer = getattr(compressed, "tokenizer", None) if tokenizer is None else tokenizer
    info = _info(compressed, model, metrics, evaluation, base_model)
    hf.attach(model, _recipe_of(compressed, model))
    with new_folder(path, overwrite) as folder:
        _write(folder, model, tokenizer, info, max_shard_bytes)
    return Path(path)


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    verify: bool = True,
    stacked: bool = True,
) -> PreTrainedModel:
    """Load a checkpoint folder; the model is in evaluation mode.

    dtype   of values and factors; default: as stored
    verify  also compare the sha256 of every shard, which reads them once more: about a second per gigabyte.
            Without it names, shapes, types, sizes and stored positions are still checked.
    stacked  on a GPU, layers that read the same input run as one (`sparlow.stacks`); `sparlow.unstack` undoes it

    Raises FileNotFoundError without the folder; ValueError, naming file or tensor, for a folder that is
    unfinished, truncated, altered, or of a newer format version; RuntimeError for a GPU that is not there.
    """
    if (reason := missing_gpu(device)) is not None:
        raise RuntimeError(reason)
    folder = check_folder(Path(path), verify)
    model, report = hf.model_class(folder.config).from_pretrained(
        path, dtype="auto" if dtype is None else dtype, output_loading_info=True, local_files_only=True
    )
    problems = [f"{kind}: {sorted(map(str, names))[:5]}" for kind, names in report.items() if names]
    if problems:
        raise ValueError(f"{path} does not fit its own config: {'; '.join(problems)}")
    model.sparlow_info = read_info(Path(path))
    if not stacked:
        unstack(model)
    placed: PreTrainedModel = model.to(device)
    return placed


def read_info(folder: Path) -> CheckpointInfo:
    """Metrics, evaluation and base model of a checkpoint; nothing of the weights is read."""
    metrics, evaluation = folder / METRICS_NAME, folder / EVALUATION_NAME
    manifest = read_manifest(folder)
    return CheckpointInfo(
        [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()] if metrics.is_file() else [],
        json.loads(evaluation.read_text(encoding="utf-8")) if evaluation.is_file() else None,
        manifest.base_model,
        manifest.calibration_hash,
    )


def _model_of(compressed: Any) -> PreTrainedModel:
    model = compressed if isinstance(compressed, PreTrainedModel) else getattr(compressed, "model", None)
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"expected a compressed transformers model, got {type(compressed).__name__}")
    if not hf.compressed_modules(model):
        raise ValueError(f"{type(model).__name__} has no compressed layer; run sparlow.compress first")
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ValueError("the model carries adapters; save them with peft and unload them before saving the model")
    return model


def _recipe_of(compressed: Any, model: PreTrainedModel) -> dict[str, Any]:
    recipe = getattr(compressed, "recipe", None) if compressed is not model else None
    if recipe is not None:
        return dict(recipe) if isinstance(recipe, Mapping) else dict(recipe.published())
    config = getattr(model.config, "quantization_config", None) or {}
    return dict((config if isinstance(config, dict) else config.to_dict()).get("recipe", {}))


def _info(
    compressed: Any,
    model: PreTrainedModel,
    metrics: Iterable[Any] | None,
    evaluation: Mapping[str, Any] | None,
    base_model: str | None,
) -> CheckpointInfo:
    earlier = getattr(model, "sparlow_info", CheckpointInfo())
    if metrics is None:
        metrics = earlier.metrics if compressed is model else _lines(compressed)
    return CheckpointInfo(
        metrics=[_plain(dict(m) if isinstance(m, Mapping) else asdict(m)) for m in metrics],
        evaluation=earlier.evaluation if evaluation is None else _plain(dict(evaluation)),
        base_model=base_model or earlier.base_model or _hub_name(model),
        calibration_hash=getattr(compressed, "calibration_hash", None) or earlier.calibration_hash,
    )


def _lines(compressed: Any) -> list[Any]:
    """The records of the layers, then those of matching, which name their kind."""
    matched = getattr(compressed, "matching", [])
    return [*compressed.layers, *({"kind": "matching", **asdict(record)} for record in matched)]


def _hub_name(model: PreTrainedModel) -> str | None:
    """Where the model came from, if that is a name of the hub: a path on a disk does not belong on a card."""
    origin = str(getattr(model.config, "_name_or_path", ""))
    return origin if re.fullmatch(r"\w[\w.-]*/[\w.-]+", origin) and not os.path.exists(origin) else None


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    info: CheckpointInfo,
    max_bytes: int,
) -> None:
    shards = _write_shards(folder, model, max_bytes)
    stored_config(model).save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    lines = [json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in info.metrics]
    (folder / METRICS_NAME).write_text("".join(lines), encoding="utf-8")
    if info.evaluation is not None:
        (folder / EVALUATION_NAME).write_text(json.dumps(info.evaluation, indent=2) + "\n", encoding="utf-8")
    text = card.card_text(inspect_unfinished(folder), info.metrics, info.evaluation, info.base_model)
    (folder / "README.md").write_text(text, encoding="utf-8")
    manifest = Manifest(__version__, shards, info.base_model, info.calibration_hash)
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")


def _write_shards(folder: Path, model: PreTrainedModel, max_bytes: int) -> dict[str, ShardRecord]:
    groups = split_shards(stored_tensors(model), max_bytes)
    records: dict[str, ShardRecord] = {}
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = SINGLE_SHARD if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        digest = write_shard(folder / name, group)
        records[name] = ShardRecord((folder / name).stat().st_size, digest)
        weight_map |= dict.fromkeys(group, name)
    if len(groups) > 1:
        total = sum(record.bytes for record in records.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return records
