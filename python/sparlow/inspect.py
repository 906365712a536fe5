"""Where the bytes of a checkpoint are, from its config and shard headers alone: no weight is read.

"Dense" always means the same model in bfloat16, two bytes per weight.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig

from sparlow.hf import model_class
from sparlow.manifest import read_manifest
from sparlow.spec import LayerSpec
from sparlow.verify import Folder, read_folder

DENSE_BYTES = 2  # per weight in bfloat16
MOST_SIGN_RANKS = 4  # of a signed term that the kernels run packed


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of one layer's weight matrix; the bias, the same in both forms, is not counted.

    sparse_bytes  values and metadata of S
    low_rank_bytes  U and V
    signed_bytes  signs and factors of the signed term
    dense_bytes   d_out * d_in * 2
    """

    name: str
    spec: LayerSpec
    sparse_bytes: int
    low_rank_bytes: int
    signed_bytes: int
    dense_bytes: int

    @property
    def stored_bytes(self) -> int:
        """All terms together."""
        return self.sparse_bytes + self.low_rank_bytes + self.signed_bytes

    @property
    def ratio(self) -> float:
        """Stored bytes over dense bytes; below 1 is smaller."""
        return self.stored_bytes / self.dense_bytes

    @property
    def runs_on_gpu(self) -> str:
        """How a GPU with kernels runs the layer in bfloat16 or float16: packed, few tokens packed, or expanded."""
        if self.spec.format == "dense" or self.spec.d_in % 4 or self.spec.sign_rank > MOST_SIGN_RANKS:
            return "expanded to dense"
        if self.spec.format == "nm24" and self.spec.sign_rank == 0:
            return "packed"
        return "packed up to some tens of tokens, else expanded to dense"


@dataclass(frozen=True)
class Inspection:
    """Bytes of a checkpoint.

    disk_bytes     all files of the folder
    tensor_bytes / dense_tensor_bytes  all tensors as stored / of the same model in bfloat16
    token_bytes / dense_token_bytes    weights that decoding one token reads, packed / in bfloat16: every
        tensor (of a mixture, every expert) but embedding tables, which give one row each, unless a tied head
        reads them whole. It is what a layer that `runs_on_gpu` packed reads.
    """

    path: Path
    layers: tuple[LayerBytes, ...]
    recipe: dict[str, object]
    disk_bytes: int
    tensor_bytes: int
    dense_tensor_bytes: int
    token_bytes: int
    dense_token_bytes: int

    @property
    def layer_bytes(self) -> int:
        """Stored bytes of the compressed layers."""
        return sum(layer.stored_bytes for layer in self.layers)

    @property
    def dense_layer_bytes(self) -> int:
        """Bytes of the same layers in bfloat16."""
        return sum(layer.dense_bytes for layer in self.layers)


def inspect_checkpoint(path: str | os.PathLike[str]) -> Inspection:
    """Account for the bytes of a finished checkpoint. Errors as `sparlow.load` without `verify`."""
    read_manifest(Path(path))
    return inspect_unfinished(Path(path))


def inspect_unfinished(path: Path) -> Inspection:
    """The same for a folder whose manifest is still to be written."""
    folder = read_folder(path)
    names = sorted(folder.layers, key=natural_order)
    layers = tuple(layer_bytes(name, folder.layers[name], folder) for name in names)
    owned = {
        f"{layer.name}.{key}" for layer in layers for key in (layer.spec.value_shapes() | layer.spec.meta_shapes())
    }
    others = {name: info for name, (_, info) in folder.tensors.items() if name not in owned}
    stored, dense = sum(layer.stored_bytes for layer in layers), sum(layer.dense_bytes for layer in layers)
    dense_sizes = {name: _elements(info.shape) * DENSE_BYTES for name, info in others.items()}
    rows = _rows_looked_up(folder, others)
    return Inspection(
        path=path,
        layers=layers,
        recipe=folder.config["quantization_config"].get("recipe", {}),
        disk_bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        tensor_bytes=stored + sum(info.nbytes for info in others.values()),
        dense_tensor_bytes=dense + sum(dense_sizes.values()),
        token_bytes=stored + sum(info.nbytes // rows.get(name, 1) for name, info in others.items()),
        dense_token_bytes=dense + sum(size // rows.get(name, 1) for name, size in dense_sizes.items()),
    )


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def layer_bytes(name: str, spec: LayerSpec, folder: Folder) -> LayerBytes:
    """Bytes of one layer, summed over its entries in the shard headers."""

    def stored(keys: Iterable[str]) -> int:
        return sum(folder.tensors[f"{name}.{key}"][1].nbytes for key in keys)

    keys = [*spec.value_shapes(), *spec.meta_shapes()]
    return LayerBytes(
        name=name,
        spec=spec,
        sparse_bytes=stored(key for key in keys if key.startswith("weight_")),
        low_rank_bytes=stored(key for key in keys if key.startswith("low_rank_")),
        signed_bytes=stored(key for key in keys if key.startswith("sign_")),
        dense_bytes=spec.d_out * spec.d_in * DENSE_BYTES,
    )


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for extent in shape:
        product *= extent
    return product


def _rows_looked_up(folder: Folder, names: Iterable[str]) -> dict[str, int]:
    """Row counts of the embedding tables of which a token reads one row: all that the head does not share."""
    config = AutoConfig.from_pretrained(folder.path, local_files_only=True)
    with torch.device("meta"):
        model = model_class(folder.config)(config)
    head = model.get_output_embeddings()
    head_is_stored = any(
        module is head and f"{name}.weight" in folder.tensors for name, module in model.named_modules()
    )
    shared = None if head is None or head_is_stored else model.get_input_embeddings()
    tables = {
        f"{name}.weight": module.num_embeddings
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module is not shared
    }
    return {name: tables[name] for name in names if name in tables}
