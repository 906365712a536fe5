"""What the commands print: tables for people, JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import JustifyMethod, RenderableType
from rich.table import Table


def bytes_text(count: float) -> str:
    """A byte count with a decimal unit: 1 kB is 1000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def seconds_text(seconds: float) -> str:
    """A duration: 0.42 s, 12.3 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def saving_text(layers: int, stored: int, dense: int) -> str:
    """Number of layers and their bytes, compressed and dense."""
    plural = "" if layers == 1 else "s"
    return f"{layers} layer{plural}: {bytes_text(stored)} instead of {bytes_text(dense)} ({stored / dense:.4f})"


def number_text(value: float | None, digits: int = 4) -> str:
    """A figure with `digits` significant digits; `-` for what was not measured."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{digits}g}"


def json_text(payload: Any) -> str:
    """Indented JSON of what `plain` can make plain."""
    return json.dumps(plain(payload), indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences and paths as JSON has them; NaN and infinities, which it lacks, become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def table(columns: Iterable[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> Table:
    """A table whose first `text_columns` columns are words and the others figures."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        justify: JustifyMethod = "left" if place < text_columns else "right"
        out.add_column(column, justify=justify, no_wrap=place > 0, overflow="fold")
    for row in rows:
        out.add_row(*row)
    return out


def short_names(names: Sequence[str]) -> tuple[str, list[str]]:
    """Header and entries of a column of module names: what all of them begin with stands in the header, once."""
    parts = [name.split(".") for name in names]
    shared = 0
    while len(names) > 1 and all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    header = "layer of " + ".".join(parts[0][:shared]) if shared else "layer"
    return header, [".".join(part[shared:]) for part in parts]


def module_table(columns: Sequence[str], names: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table with a row per module; its first two `columns` are words."""
    header, short = short_names(names)
    return table((header, *columns), [(name, *row) for name, row in zip(short, rows, strict=True)], text_columns=3)


def layer_table(records: Sequence[Any]) -> Table:
    """One row per compressed layer: how it was solved and what it lost."""
    columns = ("method", "pattern", "density", "rank", "rel. loss", "stored", "iterations", "damping", "seconds")
    rows = (
        (
            record.method,
            record.pattern,
            f"{record.density:.3f}",
            str(record.rank),
            number_text(record.relative_loss),
            number_text(record.stored_relative_loss),
            str(record.iterations),
            number_text(record.damping_used),
            f"{record.seconds:.2f}",
        )
        for record in records
    )
    return module_table(columns, [record.name for record in records], rows)


def matching_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """One row per block whose layers were trained together; `records` have the keys of `MatchingRecord`."""
    rows = (
        (
            record["block"],
            number_text(record["held_out_before"]),
            number_text(record["held_out_after"]),
            f"{record['best_epoch']} of {len(record['curve']) - 1}",
            str(record["steps"]),
            str(record["lowered"]),
            f"{record['seconds']:.2f}",
        )
        for record in records
    )
    return table(("block", "held-out loss", "matched", "best epoch", "steps", "lowered", "seconds"), rows)


def plan_table(plan: Any) -> Table:
    """One row per layer that a recipe matches: what it would become."""
    rows = (
        (
            layer.method,
            layer.pattern,
            f"{layer.d_out} x {layer.d_in}",
            str(layer.rank),
            bytes_text(layer.dense_bytes),
            bytes_text(layer.stored_bytes),
        )
        for layer in plan.layers
    )
    columns = ("method", "pattern", "shape", "rank", "dense", "stored")
    return module_table(columns, [layer.name for layer in plan.layers], rows)


def plan_text(plan: Any) -> str:
    """The estimate of a dry run: sizes, memory and time."""
    dense = sum(layer.dense_bytes for layer in plan.layers)
    stored = sum(layer.stored_bytes for layer in plan.layers)
    lines = [
        *plan.notes,
        saving_text(len(plan.layers), stored, dense),
        *([f"Matching: {plan.matching}"] if plan.matching else []),
        f"Estimate: {bytes_text(plan.peak_bytes)} of memory at the worst moment, at most {seconds_text(plan.seconds)} "
        f"({plan.calibration_tokens} calibration tokens). Nothing was done.",
    ]
    return "\n".join(lines)


def perplexity_table(rows: Iterable[tuple[Path | str, Any]]) -> Table:
    """One row per model; the first is what the others are compared with."""
    rows = list(rows)
    base = rows[0][1].perplexity
    return table(
        ("model", "perplexity", "ratio", "seconds"),
        ((str(name), f"{e.perplexity:.3f}", f"{e.perplexity / base:.3f}", f"{e.seconds:.1f}") for name, e in rows),
    )


def protocol_text(evaluation: Any) -> str:
    """How a perplexity was taken, in one line."""
    shape = f"{evaluation.windows} windows of {evaluation.window_tokens} tokens"
    return f"Token perplexity, {shape}, each with an empty context."


def methods_table(methods: Iterable[Any]) -> Table:
    """The solver registry: what each method needs and can do, and whose it is."""
    needs = {"none": "weights only", "diagonal": "input norms", "full": "Gram matrix"}
    rows = (
        (
            method.name,
            needs[method.needs_gram],
            "S" + "+L" * method.low_rank + "+B" * method.signed_term,
            f"{method.title}. {method.citation}",
        )
        for method in methods
    )
    out = table(("method", "calibration", "terms", "what and whose"), rows, text_columns=4)
    out.columns[-1].no_wrap = False
    return out


def inspection_table(found: Any) -> Table:
    """Bytes of each compressed layer, stored against bfloat16."""
    rows = (
        (
            layer.spec.format,
            layer.spec.pattern,
            str(layer.spec.rank),
            bytes_text(layer.sparse_bytes),
            bytes_text(layer.low_rank_bytes),
            bytes_text(layer.signed_bytes),
            bytes_text(layer.dense_bytes),
            f"{layer.ratio:.4f}",
        )
        for layer in found.layers
    )
    columns = ("format", "pattern", "rank", "sparse", "low rank", "signed", "bf16", "ratio")
    return module_table(columns, [layer.name for layer in found.layers], rows)


def inspection_totals(found: Any) -> Table:
    """Sums over the checkpoint: stored bytes, the bytes of the same in bfloat16, their ratio."""
    sums = (
        ("compressed layers", found.layer_bytes, found.dense_layer_bytes),
        ("all tensors", found.tensor_bytes, found.dense_tensor_bytes),
        ("weights read per token", found.token_bytes, found.dense_token_bytes),
    )
    rows = [(name, f"{stored:,}", f"{dense:,}", f"{stored / dense:.4f}") for name, stored, dense in sums]
    rows.append(("files on disk", f"{found.disk_bytes:,}", "", ""))
    return table(("bytes", "stored", "bf16", "ratio"), rows)


def bench_table(rows: Iterable[Any]) -> Table:
    """Dense against compressed, from `sparlow.benchmark.Timing` records; times of one pass through all layers."""
    columns = ("tokens", "kernel", "dense", "compressed", "times dense", "tokens/s")
    return table(
        columns,
        [
            (
                f"{row.tokens}",
                " + ".join(row.kernels),
                f"{row.dense_us:.1f} us",
                f"{row.compressed_us:.1f} us",
                f"{row.ratio:.2f}",
                f"{row.tokens / row.compressed_us * 1e6:,.0f}",
            )
            for row in rows
        ],
        text_columns=2,
    )


def bench_notes(held: int, dense: int, loading: Any, reasons: Sequence[str]) -> str:
    """Bytes of the weights and while they were loaded (`benchmark.Loading` or None), why layers are not packed."""
    lines = [f"weights in memory: {bytes_text(held)} of {bytes_text(dense)} dense ({held / dense:.3f})"]
    if loading is not None:
        peak, whole = bytes_text(loading.peak_bytes), bytes_text(loading.dense_bytes)
        lines.append(f"while loading at most {peak}, the whole model dense would be {whole}")
    return "\n".join([*lines, *(f"unpacked in every pass: {reason}" for reason in reasons)])


def demo_tables(result: Any) -> tuple[RenderableType, ...]:
    """The demo's figures: where the time and memory went, then one row per model."""
    stages = [(s.name, seconds_text(s.seconds), bytes_text(s.peak_bytes)) for s in result.stages]
    total = sum(stage.seconds for stage in result.stages)
    stages.append(("total", seconds_text(total), stages[-1][2]))
    dense = result.rows[0]
    rows = (
        (
            row.method,
            row.pattern + (f" + rank {row.rank}" if row.rank else ""),
            f"{row.perplexity:.2f}",
            bytes_text(row.linear_bytes),
            f"{row.linear_bytes / dense.linear_bytes:.4f}",
            seconds_text(row.seconds) if row.seconds else "-",
        )
        for row in result.rows
    )
    return (
        "",
        table(("stage", "time", "peak memory so far"), stages),
        "",
        table(("method", "form", "perplexity", "linear layers", "of bf16", "compression"), rows, text_columns=2),
    )


def demo_text(result: Any) -> str:
    """How the figures were taken, what the models write, and where the checkpoint is."""
    s = result.settings
    lines = [
        "",
        f"Perplexity per token on {s.evaluation_windows} windows of {s.window_tokens} tokens of articles that the",
        f"calibration ({s.calibration_windows} windows of other articles) did not see.",
        "",
        *(f"{name + ':':12}{s.prompt}{text}" for name, text in result.sentences.items()),
        "",
        f"Checkpoint: {result.checkpoint}",
        "Go on with:",
        f"  sparlow inspect {result.checkpoint}",
        f"  sparlow eval {result.data.model} {result.checkpoint} --text {result.data.evaluation} --windows 8",
        f"  sparlow generate {result.checkpoint} 'Once upon a time'",
    ]
    return "\n".join(lines)
