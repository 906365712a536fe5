"""`sparlow bench`."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated

import torch
import typer

from sparlow import benchmark
from sparlow.cli.models import DeviceOption, Dtype, check_device, open_compressed
from sparlow.cli.output import JsonFlag, progress_bar, show
from sparlow.hf import compressed_modules
from sparlow.layers import SparseLowRankLinear
from sparlow.report import bench_notes, bench_table

_TOKENS = "1,8,16,64,256,1024,4096"


def bench(
    model: Annotated[
        str | None, typer.Argument(help="A folder that `sparlow compress` wrote: all its layers, in order.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Instead of a model: D_OUTxD_IN of one layer of random numbers.")
    ] = None,
    rank: Annotated[int, typer.Option("--rank", help="Of the low-rank part, with --shape.")] = 64,
    tokens: Annotated[str, typer.Option("--tokens", help="How many at once; several, separated by commas.")] = _TOKENS,
    device: DeviceOption = "cpu",
    dtype: Annotated[
        Dtype | None,
        typer.Option("--dtype", help="Numbers to compute with (default: as stored; bfloat16 with --shape)."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """How fast compressed linear layers run against dense ones, and how many bytes they take."""
    check_device(device)
    counts = parse_tokens(tokens)
    layers, passes, loading = _layers(model, shape, rank, device, dtype)
    with progress_bar() as progress:
        task = progress.add_task("timing", total=len(counts))
        rows = benchmark.compare(layers, counts, lambda: progress.advance(task))
    per_pass = [row.divided(passes) for row in rows]
    held, dense = (total // passes for total in benchmark.weight_bytes(torch.nn.ModuleList(layers)))
    reasons = sorted({reason for layer in layers if (reason := benchmark.why_not_packed(layer)) is not None})
    payload = {
        "what": model or f"one {shape} layer, rank {rank}",
        "device": torch.cuda.get_device_name(device) if device != "cpu" else device,
        "dtype": str(layers[0].weight.dtype).removeprefix("torch."),
        "weight_bytes": held,
        "dense_weight_bytes": dense,
        "stacks": len({id(layer.stack) for layer in layers if layer.stack is not None}),
        "loading": loading and asdict(loading),
        "not_packed": reasons,
        "rows": [row.to_dict() for row in per_pass],
    }
    show(payload, as_json, bench_table(per_pass), bench_notes(held, dense, loading, reasons))


def parse_tokens(text: str) -> list[int]:
    """Positive integers of a list like "1,8,64"; ValueError for anything else."""
    if not re.fullmatch(r"\s*[1-9]\d{0,5}(\s*,\s*[1-9]\d{0,5})*\s*", text):
        raise ValueError(f"--tokens {text!r}: write positive numbers separated by commas, such as {_TOKENS}")
    return [int(part) for part in text.split(",")]


def parse_shape(text: str) -> tuple[int, int]:
    """(d_out, d_in) of "4096x14336"; ValueError for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,6})[xX×]([1-9]\d{0,6})", text.strip())
    if match is None:
        raise ValueError(f"--shape {text!r}: write D_OUTxD_IN, such as 4096x14336")
    d_out, d_in = int(match[1]), int(match[2])
    if d_in % 4:
        raise ValueError(f"--shape {text}: 2:4 layers need d_in divisible by 4, got {d_in}")
    return d_out, d_in


def _layers(
    model: str | None, shape: str | None, rank: int, device: str, dtype: Dtype | None
) -> tuple[list[SparseLowRankLinear], int, benchmark.Loading | None]:
    """Layers to run, how many of them stand for one, and the memory it took to load them onto a GPU."""
    if (model is None) == (shape is None):
        raise ValueError("give a compressed model or --shape, one of them")
    if rank < 0:
        raise ValueError(f"--rank must not be negative, got {rank}")
    if shape is None:
        assert model is not None
        opened, loading = _open(model, device, dtype)
        return list(compressed_modules(opened).values()), 1, loading
    d_out, d_in = parse_shape(shape)
    if rank > min(d_out, d_in):
        raise ValueError(
            f"--rank {rank} is larger than min(d_out, d_in) = {min(d_out, d_in)} of --shape {shape}; lower it"
        )
    chosen: torch.dtype = getattr(torch, dtype or "bfloat16")
    copies = benchmark.copies_of(d_out, d_in, chosen, torch.device(device))
    return [benchmark.random_layer(d_out, d_in, rank, chosen, device) for _ in range(copies)], copies, None


def _open(model: str, device: str, dtype: Dtype | None) -> tuple[torch.nn.Module, benchmark.Loading | None]:
    if torch.device(device).type != "cuda":
        return open_compressed(model, device, dtype), None
    return benchmark.measure_loading(lambda: open_compressed(model, device, dtype), torch.device(device))
