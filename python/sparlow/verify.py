"""Checks of a checkpoint folder before anything is loaded. A failure is a ValueError that names the file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from sparlow import formats
from sparlow.manifest import Manifest, check_format_version, read_config, read_json, read_manifest
from sparlow.shards import TensorInfo, read_header
from sparlow.signed import check_signs
from sparlow.spec import PACKED_DTYPES, LayerSpec

SINGLE_SHARD = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class Folder:
    """What a checkpoint's config and shard headers say. `tensors` maps a name to its shard and entry."""

    path: Path
    config: dict[str, Any]
    layers: dict[str, LayerSpec]
    tensors: dict[str, tuple[Path, TensorInfo]]


def layer_table(layers: object) -> dict[str, LayerSpec]:
    """The `layers` object of a quantization config, parsed."""
    if not isinstance(layers, Mapping):
        raise ValueError(f"quantization_config.layers must be an object, got {type(layers).__name__}")
    return {str(name): LayerSpec.from_dict(str(name), entry) for name, entry in layers.items()}


def read_folder(folder: Path) -> Folder:
    """Read config and headers and check that they agree; no tensor is read. The manifest is not needed."""
    config = read_config(folder)
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "sparlow":
        raise ValueError(f"{folder / 'config.json'} has no quantization_config with quant_method 'sparlow'")
    check_format_version(
        folder / "config.json", quantization.get("format_version"), quantization.get("sparlow_version")
    )
    layers = layer_table(quantization.get("layers"))
    tensors = read_headers(shard_paths(folder))
    check_layers(layers, {name: info for name, (_, info) in tensors.items()})
    return Folder(folder, config, layers, tensors)


def shard_paths(folder: Path) -> list[Path]:
    """The shards that transformers will read. ValueError if index and folder disagree."""
    present = {path.name for path in folder.glob("*.safetensors")}
    sharded = (folder / INDEX_NAME).is_file()
    expected = set(_weight_map(folder).values()) if sharded else {SINGLE_SHARD}
    for name in sorted(expected - present):
        raise ValueError(f"shard {name} is missing from {folder}")
    if present != expected:
        raise ValueError(f"{folder} holds shards that belong to nothing: {sorted(present - expected)}")
    return sorted(folder / name for name in expected)


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_json(folder / INDEX_NAME).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{folder / INDEX_NAME} has no weight_map")
    return weight_map


def read_headers(paths: Iterable[Path]) -> dict[str, tuple[Path, TensorInfo]]:
    """All tensors of several shards by name."""
    tensors: dict[str, tuple[Path, TensorInfo]] = {}
    for path in paths:
        for name, info in read_header(path).items():
            if name in tensors:
                raise ValueError(f"tensor {name!r} is in two shards: {tensors[name][0].name} and {path.name}")
            tensors[name] = (path, info)
    return tensors


def check_layers(layers: Mapping[str, LayerSpec], tensors: Mapping[str, TensorInfo]) -> None:
    """Every tensor that the layer table promises is there, with its shape and type."""
    for name, spec in layers.items():
        for key, shape in spec.value_shapes().items():
            _check_tensor(tensors, f"{name}.{key}", shape, set(PACKED_DTYPES))
        for key, shape in spec.meta_shapes().items():
            _check_tensor(tensors, f"{name}.{key}", shape, {"U8"})
        dtypes = {tensors[f"{name}.{key}"].dtype for key in spec.value_shapes()}
        if len(dtypes) != 1:
            raise ValueError(f"layer {name!r} mixes the types {sorted(dtypes)}")


def _check_tensor(tensors: Mapping[str, TensorInfo], name: str, shape: tuple[int, ...], dtypes: set[str]) -> None:
    info = tensors.get(name)
    if info is None:
        raise ValueError(f"tensor {name!r} of the layer table is in no shard")
    if info.shape != shape or info.dtype not in dtypes:
        wanted = "/".join(sorted(dtypes))
        raise ValueError(
            f"tensor {name!r} is {info.dtype}{list(info.shape)}, the layer table says {wanted}{list(shape)}"
        )


def check_folder(path: Path, verify: bool = True) -> Folder:
    """All checks of a finished checkpoint; `verify` includes the sha256 of every shard."""
    manifest = read_manifest(path)
    _check_shard_list(path, manifest)
    if verify:
        _check_hashes(path, manifest)
    folder = read_folder(path)
    if (path / INDEX_NAME).is_file():
        _check_index(folder)
    check_positions(folder)
    return folder


def _check_shard_list(path: Path, manifest: Manifest) -> None:
    for name, record in manifest.shards.items():
        file = path / name
        if not file.is_file():
            raise ValueError(f"shard {name} is missing from {path}")
        if file.stat().st_size != record.bytes:
            sizes = f"{file.stat().st_size} bytes, {record.bytes} were written"
            raise ValueError(f"shard {name} has {sizes}: truncated or altered ({path})")
    present = {file.name for file in path.glob("*.safetensors")}
    if present != set(manifest.shards):
        raise ValueError(f"{path} holds shards that were not part of it: {sorted(present - set(manifest.shards))}")


def _check_hashes(path: Path, manifest: Manifest) -> None:
    for name, record in manifest.shards.items():
        with (path / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != record.sha256:
            raise ValueError(
                f"shard {name} was altered: sha256 {found[:12]}…, {record.sha256[:12]}… was written ({path})"
            )


def _check_index(folder: Folder) -> None:
    found = {name: path.name for name, (path, _) in folder.tensors.items()}
    if _weight_map(folder.path) != found:
        raise ValueError(f"{folder.path / INDEX_NAME} does not match the headers of the shards")


def check_positions(folder: Folder) -> None:
    """Every 2:4 position is legal, every bitmap marks as many values as are stored, every sign has a column."""
    for name, spec in folder.layers.items():
        for key in spec.meta_shapes():
            path, _ = folder.tensors[f"{name}.{key}"]
            with safetensors.safe_open(path, framework="pt") as file:
                bits = file.get_tensor(f"{name}.{key}")
                if key == "sign_bits":
                    check_signs(bits, spec.d_in, name)
                else:
                    formats.check_meta(spec.format, bits, spec.d_in, spec.nnz, name)
