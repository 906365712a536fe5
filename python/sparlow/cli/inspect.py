"""`sparlow inspect`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from sparlow.cli.output import JsonFlag, show
from sparlow.inspect import LayerBytes, inspect_checkpoint
from sparlow.report import inspection_table, inspection_totals


def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that `sparlow compress` wrote.")],
    as_json: JsonFlag = False,
) -> None:
    """Where the bytes of a checkpoint are, against bfloat16; reads headers only, no weights."""
    found = inspect_checkpoint(checkpoint)
    totals = {
        field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "layers"
    } | {"layer_bytes": found.layer_bytes, "dense_layer_bytes": found.dense_layer_bytes}
    layers = [_layer(layer) for layer in found.layers]
    show({**totals, "layers": layers}, as_json, inspection_table(found), "", inspection_totals(found))


def _layer(layer: LayerBytes) -> dict[str, object]:
    return {
        "name": layer.name,
        **dataclasses.asdict(layer.spec),
        "sparse_bytes": layer.sparse_bytes,
        "low_rank_bytes": layer.low_rank_bytes,
        "stored_bytes": layer.stored_bytes,
        "dense_bytes": layer.dense_bytes,
        "ratio": layer.ratio,
    }
