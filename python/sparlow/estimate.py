"""What a run will take, from shapes alone."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .budget import sign_share
from .job import BlockJob, Job, LayerJob
from .matching.estimate import describe, training_bytes, training_flops
from .recipe import Recipe
from .records import Plan, PlannedLayer
from .solve import estimate, parse_pattern, sign_rank

_PROBE_SIZE = 1024
_PROBE_SECONDS = 0.2
_BYTES_PER_CHARACTER = 140  # of a text while it becomes tokens: ids, offsets and masks of the tokenizer, measured


def estimate_plan(model: Any, job: Job, recipe: Recipe) -> Plan:
    """Memory and time of `job`, whose model may be on the meta device.

    Memory: the process, the model, the calibration stream (twice for `repair`), one block in the dtype of the forward
    passes with its Gram matrices, the largest call of the solver, what matching adds and what an allocation holds of
    the whole model. Time: every product at the speed of one timed here.
    """
    calibrated = job.needs_calibration or recipe.matching is not None or recipe.calibration.source is not None
    tokens = recipe.calibration.windows * recipe.calibration.window_tokens if calibrated else 0
    solver_bytes, flops = 0.0, 0.0
    for block in job.blocks:
        block_bytes, block_flops = _solver(block)
        solver_bytes = max(solver_bytes, block_bytes)
        flops += block_flops + _forward_flops(block, tokens, recipe.repair > 0)
    peak = _held_bytes(model) + solver_bytes + (_calibration_bytes(model, job, recipe, tokens) if calibrated else 0)
    peak += _allocation_bytes(model, job, recipe)
    words = ""
    if recipe.matching is not None:
        peak += training_bytes(job, recipe.matching, recipe)
        flops += training_flops(job, recipe.matching, tokens)
        words = describe(recipe.matching, recipe.calibration.windows)
    layers = [_planned(layer, recipe) for layer in job.layers]
    return Plan(layers, round(peak), flops / _flops_per_second(recipe), tokens, job.notes, words)


def _planned(job: LayerJob, recipe: Recipe) -> PlannedLayer:
    plan, (d_out, d_in) = job.plan, job.layer.shape
    size = getattr(torch, recipe.dtype).itemsize
    kept = parse_pattern(plan.pattern).kept(d_out, d_in)
    index = d_out * ((d_in + 7) // 8)
    # A pattern so dense that the bitmap costs more than it saves is stored dense.
    sparse = min(kept * size + index, d_out * d_in * size)
    signs = sign_share(d_out, d_in, sign_rank(plan.method, plan.options), 8 * size)
    stored = sparse + plan.rank * (d_out + d_in) * size + round(signs * d_out * d_in * size)
    return PlannedLayer(job.layer.name, plan.method, plan.pattern, plan.rank, d_out, d_in, d_out * d_in * size, stored)


def _solver(block: BlockJob) -> tuple[float, float]:
    """Largest memory and total work of the solver calls of a block; layers side by side share an input."""
    groups: dict[object, list[LayerJob]] = {}
    for job in block.layers:
        parent, d_in = job.layer.name.rpartition(".")[0], job.layer.shape[1]
        key = (parent, d_in, job.plan.method, job.plan.pattern, tuple(sorted(job.plan.options.items())))
        groups.setdefault(key, []).append(job)
    peak, flops = 0.0, 0.0
    for jobs in groups.values():
        plan = jobs[0].plan
        shapes = [(*job.layer.shape, job.plan.rank) for job in jobs]
        figures = estimate(plan.method, shapes, plan.pattern, plan.options)
        peak = max(peak, figures["peak_bytes"])
        flops += figures["flops"]
    return peak, flops


def _forward_flops(block: BlockJob, tokens: int, repair: bool) -> float:
    """Two passes through the block and the Gram matrix of each input width; for `repair` the same again."""
    weights = sum(p.numel() for p in block.block.module.parameters() if p.ndim == 2)
    widths = {(job.layer.name.rpartition(".")[0], job.layer.shape[1]) for job in block.layers}
    squares = sum(float(d_in) ** 2 for _, d_in in widths)
    return tokens * (4.0 * weights + squares) + (tokens * (4.0 * weights + 2 * squares) if repair else 0)


def _calibration_bytes(model: Any, job: Job, recipe: Recipe, tokens: int) -> float:
    size = recipe.forward_dtype.itemsize
    entries, width = model.get_input_embeddings().weight.shape
    block = max(sum(p.numel() for p in entry.block.module.parameters()) for entry in job.blocks)
    widths = [job.layer.shape[1] for entry in job.blocks[:1] for job in entry.layers]
    grams = sum(4.0 * d_in**2 for d_in in set(widths))
    widest = max((sum(layer.layer.shape[0] for layer in entry.layers) for entry in job.blocks), default=0)
    batch = min(recipe.calibration.batch * recipe.calibration.window_tokens, tokens)
    stream = tokens * width
    if recipe.repair > 0:
        stream, grams = 2 * stream, 2 * grams
    return float(size * (stream + max(entries * width, block + batch * widest)) + grams + _text_bytes(recipe))


def _text_bytes(recipe: Recipe) -> float:
    """A text is tokenized whole, which leaves a larger process behind."""
    path = Path(str(recipe.calibration.source))
    return float(_BYTES_PER_CHARACTER * path.stat().st_size) if path.suffix == ".txt" and path.is_file() else 0.0


def _allocation_bytes(model: nn.Module, job: Job, recipe: Recipe) -> float:
    """The model in the dtype of the forward passes where its loss is measured; candidates in float32, with a label."""
    if recipe.allocation is None:
        return 0.0
    strategy, size = recipe.allocation.strategy, recipe.forward_dtype.itemsize
    weighed = strategy in ("greedy", "score", "policy") and recipe.allocation.weight == "model"
    whole = strategy == "policy" or weighed
    entries = sum(layer.layer.shape[0] * layer.layer.shape[1] for layer in job.layers)
    held = {"policy": 2 * 4 + 1, "score": 2 * 4 + 1}.get(strategy, 0) + size * weighed
    return (sum(p.numel() for p in model.parameters()) * size if whole else 0) + float(held * entries)


def _held_bytes(model: nn.Module) -> int:
    """This process so far, and the model if it is not in memory yet."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak + sum(p.numel() * p.element_size() for p in model.parameters() if p.is_meta)


def _flops_per_second(recipe: Recipe) -> float:
    """Speed of a float32 matrix product on the recipe's device."""
    a = torch.ones(_PROBE_SIZE, _PROBE_SIZE, device=recipe.device)
    float((a @ a)[0, 0])
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < _PROBE_SECONDS:
        float((a @ a)[0, 0])
        products += 1
    return products * 2.0 * _PROBE_SIZE**3 / (time.perf_counter() - started)
