"""`sparlow compress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import RenderableType

from sparlow import api
from sparlow.atomic import check_target
from sparlow.cli.models import check_device, check_source
from sparlow.cli.output import CompressionProgress, Interrupted, JsonFlag, progress_bar, show
from sparlow.cli.recipes import build_recipe
from sparlow.recipe import Recipe
from sparlow.report import layer_table, matching_table, plain, plan_table, plan_text, saving_text, seconds_text

_RECIPE, _SOURCE, _RUN = "Recipe (override the file's)", "Calibration", "Run"


def compress(
    model: Annotated[str, typer.Argument(help="A folder, hub name or .gguf file with the dense model.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The folder to write.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A YAML recipe; the flags below override it.")] = None,
    method: Annotated[
        str | None, typer.Option(help="See `sparlow methods` (default: threebasil).", rich_help_panel=_RECIPE)
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="NAME=VALUE", help="An option of the method; repeat.", rich_help_panel=_RECIPE
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="N:M, 0.5@row, 0.5@matrix: the part that is kept (default: 2:4).", rich_help_panel=_RECIPE),
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the low-rank part.", rich_help_panel=_RECIPE)] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Parameters kept in all, as a fraction; sets the rank, or the density of @row and @matrix.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Only these layers: name or re:pattern; repeat.", rich_help_panel=_RECIPE)
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Not these layers: name or re:pattern; repeat.", rich_help_panel=_RECIPE)
    ] = None,
    matching: Annotated[
        bool | None,
        typer.Option(
            "--matching/--no-matching",
            help="Train each block's compressed layers together (default: off).",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    matching_option: Annotated[
        list[str] | None,
        typer.Option(
            "--matching-option",
            metavar="NAME=VALUE",
            help="A setting of matching, e.g. epochs=4; repeat.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Text, jsonl or token file, or the name of a data set.", rich_help_panel=_SOURCE),
    ] = None,
    field: Annotated[
        str | None, typer.Option(help="Field of a jsonl record or data set.", rich_help_panel=_SOURCE)
    ] = None,
    windows: Annotated[int | None, typer.Option(help="Number of windows.", rich_help_panel=_SOURCE)] = None,
    window_tokens: Annotated[int | None, typer.Option(help="Tokens per window.", rich_help_panel=_SOURCE)] = None,
    batch: Annotated[int | None, typer.Option(help="Windows per forward pass.", rich_help_panel=_SOURCE)] = None,
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None, typer.Option(help="Of stored numbers.", rich_help_panel=_RUN)
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.", rich_help_panel=_RUN)] = None,
    seed: Annotated[int | None, typer.Option(help="Of the windows drawn and the solver.", rich_help_panel=_RUN)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier checkpoint.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget the finished blocks of an interrupted run.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the layers and estimate memory and time.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compress the linear layers of a language model and write a checkpoint."""
    flags = {
        "method": method,
        "options": option,
        "pattern": pattern,
        "rank": rank,
        "budget": budget,
        "include": include,
        "exclude": exclude,
        "matching": matching,
        "matching_options": matching_option,
        "dtype": dtype,
        "device": device,
        "seed": seed,
    }
    source = {
        "source": calibration,
        "field": field,
        "windows": windows,
        "window_tokens": window_tokens,
        "batch": batch,
    }
    check_source(model)
    chosen = build_recipe(recipe, flags, source)
    if dry_run:
        _plan(model, chosen, as_json)
    else:
        _compress(model, chosen, output, overwrite, restart, as_json)


def _plan(model: str, recipe: Recipe, as_json: bool) -> None:
    found = api.plan(model, recipe)
    show(found, as_json, plan_table(found), "", plan_text(found))


def _journal(output: Path) -> Path:
    """Beside the checkpoint, so that both are on one disk."""
    return output.with_name(f"{output.name}.blocks")


def _compress(model: str, recipe: Recipe, output: Path | None, overwrite: bool, restart: bool, as_json: bool) -> None:
    if output is None:
        raise ValueError("say where to write the checkpoint with --output FOLDER, or only look with --dry-run")
    check_target(output, overwrite)
    check_device(recipe.device)
    with progress_bar() as progress:
        shown = CompressionProgress(progress)
        try:
            result = api.compress(model, recipe, progress=shown, journal=_journal(output), restart=restart)
            result.save(output, overwrite=overwrite)
        except KeyboardInterrupt as error:
            # Caught here, because the command line library turns it into a bare exit code.
            raise Interrupted(getattr(error, "__notes__", [])) from error
    stored = sum(record.stored_bytes for record in result.layers)
    dense = sum(record.dense_bytes for record in result.layers)
    payload = {
        "output": str(output),
        "recipe": recipe.model_dump(mode="json"),
        "calibration_hash": result.calibration_hash,
        "seconds": result.seconds,
        "stored_bytes": stored,
        "dense_bytes": dense,
        "layers": result.layers,
        "matching": result.matching,
    }
    saved = saving_text(len(result.layers), stored, dense)
    summary = f"{saved}, {seconds_text(result.seconds)}. Checkpoint: {output}"
    matched: list[RenderableType] = [matching_table(plain(result.matching)), ""] if result.matching else []
    show(payload, as_json, layer_table(result.layers), "", *matched, summary)
