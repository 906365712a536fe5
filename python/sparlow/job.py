"""The work that a recipe means for a model, checked as a whole before any of it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .calibration import Windows, load_windows
from .models import Block, LinearLayer, find_blocks, left_dense, non_finite_weights, select_linears
from .recipe import Recipe
from .recipe_rules import LayerPlan
from .solve import method_info, parse_pattern

_NO_GRAM = "none"
_HOW_TO_CALIBRATE = "give 'calibration.source' in the recipe (--calibration), or tokens"


@dataclass(frozen=True)
class LayerJob:
    """One layer and how it is to be compressed."""

    layer: LinearLayer
    plan: LayerPlan


@dataclass(frozen=True)
class BlockJob:
    """A block with the layers to compress in it; none for a block that the stream only passes."""

    block: Block
    layers: list[LayerJob]


@dataclass(frozen=True)
class Job:
    """All blocks up to the last one with work, in order."""

    blocks: list[BlockJob]
    all_blocks: list[Block]
    notes: list[str]

    @property
    def layers(self) -> list[LayerJob]:
        return [layer for block in self.blocks for layer in block.layers]

    @property
    def needs_calibration(self) -> bool:
        """Whether any layer's method needs the Gram matrix of its inputs."""
        return any(method_info(job.plan.method).needs_gram != _NO_GRAM for job in self.layers)


def make_job(model: nn.Module, recipe: Recipe) -> Job:
    """Match the recipe with the model. ValueError naming the pattern or layer that does not fit."""
    blocks = find_blocks(model)
    overrides = [override.match for override in recipe.overrides]
    chosen = select_linears(blocks, recipe.include, recipe.exclude, overrides)
    jobs = [
        BlockJob(block, [LayerJob(layer, _planned(recipe, layer)) for layer in layers])
        for block, layers in zip(blocks, chosen, strict=True)
    ]
    while not jobs[-1].layers:
        jobs.pop()
    return Job(jobs, blocks, _notes(blocks) + _allocation_notes(recipe))


def check_weights(job: Job) -> None:
    """ValueError naming the first layer to compress whose weight or bias is not finite."""
    if (problem := non_finite_weights([job.layer for job in job.layers])) is not None:
        raise ValueError(f"{problem}; the model is damaged, or exclude the layer")


def job_windows(job: Job, model: Any, recipe: Recipe, tokenizer: Any, tokens: Tensor | None) -> Windows | None:
    """The calibration windows, None if the recipe gives no data and no method needs any.

    ValueError if data is missing, or does not fit the model's vocabulary or context.
    """
    if tokens is None and recipe.calibration.source is None:
        if recipe.matching is not None:
            raise ValueError(f"matching needs calibration data: {_HOW_TO_CALIBRATE}; or leave 'matching' out")
        if recipe.repair > 0:
            raise ValueError(f"repair needs calibration data: {_HOW_TO_CALIBRATE}")
        if recipe.allocation is not None:
            raise ValueError(f"allocation '{recipe.allocation.strategy}' needs calibration data: {_HOW_TO_CALIBRATE}")
        if job.needs_calibration:
            needy = next(x for x in job.layers if method_info(x.plan.method).needs_gram != _NO_GRAM)
            raise ValueError(f"method '{needy.plan.method}' needs calibration data: {_HOW_TO_CALIBRATE}")
        return None
    _check_context(model, recipe.calibration.window_tokens)
    windows = load_windows(recipe.calibration, tokenizer=tokenizer, tokens=tokens, seed=recipe.seed)
    _check_vocabulary(model, windows.ids)
    return windows


def _planned(recipe: Recipe, layer: LinearLayer) -> LayerPlan:
    d_out, d_in = layer.shape
    plan = recipe.resolve(layer.name, d_out, d_in)
    parse_pattern(plan.pattern).check_shape(d_out, d_in, layer.name)
    return plan


def _allocation_notes(recipe: Recipe) -> list[str]:
    if recipe.allocation is None:
        return []
    return [f"allocation '{recipe.allocation.strategy}' moves ranks and densities between layers within the budget"]


def _notes(blocks: Sequence[Block]) -> list[str]:
    """What stays dense although it is a weight matrix in a block, one line for all blocks."""
    counts: dict[str, int] = {}
    for block in blocks:
        stem = block.name.rpartition(".")[0]
        for name in left_dense(block):
            place = f"{stem}.*{name.removeprefix(block.name)}"
            counts[place] = counts.get(place, 0) + 1
    if not counts:
        return []
    places = ", ".join(f"{place} ({count} blocks)" for place, count in counts.items())
    return [f"left dense, because they are experts stored as one stacked tensor, or their routers: {places}"]


def _check_context(model: Any, window_tokens: int) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(limit, int) and window_tokens > limit:
        raise ValueError(f"calibration.window_tokens is {window_tokens}, but the model takes at most {limit} tokens")


def _check_vocabulary(model: Any, ids: Tensor) -> None:
    size = model.get_input_embeddings().weight.shape[0]
    low, high = (int(x) for x in torch.aminmax(ids))
    if low < 0 or high >= size:
        raise ValueError(
            f"the calibration tokens go from {low} to {high}, but the model's vocabulary has {size} entries; "
            f"were they made with another tokenizer?"
        )
