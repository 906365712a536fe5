"""`sparlow inspect`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from sparlow.checkpoint import read_info
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
    ways = Counter(layer.runs_on_gpu for layer in found.layers)
    matched = [line for line in read_info(checkpoint).metrics if line.get("kind") == "matching"]
    parts: list[RenderableType] = [inspection_table(found), "", inspection_totals(found)]
    parts += [f"on a GPU {count} layers run {way}" for way, count in ways.items()]
    if matched:
        parts += ["", f"{len(matched)} blocks were matched after compression; see `sparlow report {checkpoint}`."]
    show({**totals, "layers": layers, "matched_blocks": len(matched)}, as_json, *parts)


def _layer(layer: LayerBytes) -> dict[str, object]:
    return {
        "name": layer.name,
        **dataclasses.asdict(layer.spec),
        "sparse_bytes": layer.sparse_bytes,
        "low_rank_bytes": layer.low_rank_bytes,
        "stored_bytes": layer.stored_bytes,
        "dense_bytes": layer.dense_bytes,
        "ratio": layer.ratio,
        "runs_on_gpu": layer.runs_on_gpu,
    }
