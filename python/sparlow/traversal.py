"""Compressing the linears of one block after another."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .drift import DenseStream
from .gram_groups import GramGroup
from .job import BlockJob, Job, LayerJob
from .journal import Finished, Journal
from .layers import SparseLowRankLinear
from .matching.stage import Matcher, trouble
from .models import LinearLayer, replace_module
from .recipe import Recipe
from .records import LayerRecord, MatchingRecord, Progress
from .solve import Decomposition, Gram, decompose, relative_loss, retarget
from .stream import Stream

Replacement = tuple[LinearLayer, SparseLowRankLinear, LayerRecord]


def traverse(
    model: nn.Module,
    job: Job,
    stream: Stream | None,
    recipe: Recipe,
    progress: Progress,
    originals: dict[str, nn.Module] | None,
    journal: Journal | None,
) -> tuple[list[LayerRecord], list[MatchingRecord]]:
    """Compress every layer of the job in place, block by block; the records in that order, and those of matching.

    The inputs of a block's layers are taken from the uncompressed block, on the stream that the
    compressed blocks before it made. Without a stream the weights alone decide. The layers are taken out
    of `job`, so that the dense weights of a block can go when it is done; `originals`, if given, receives
    the replaced modules by name. A journal receives every finished block, and blocks it has already are taken from it.
    """
    records: list[LayerRecord] = []
    matched: list[MatchingRecord] = []
    matcher = _matcher(stream, recipe)
    dense = DenseStream(stream) if stream is not None and recipe.repair > 0 else None
    for index, block in enumerate(job.blocks):
        progress.block(index)
        earlier = None if journal is None else journal.read(index)
        if matcher is not None:
            matcher.before(index, block.block, compress=bool(block.layers) and earlier is None)
        if dense is not None and (earlier is not None or not block.layers):
            dense.advance(index)
        finished = earlier or Finished({})
        for layer, compressed, record in _block(block, index, stream, dense, recipe, earlier):
            _replace(model, layer.name, compressed, originals)
            finished.layers[layer.name] = compressed, record
            records.append(record)
            progress.layer(record)
        if matcher is not None and block.layers and earlier is None:
            _match(model, matcher, index, block, finished, originals)
        _set_vectors(model, finished.vectors, originals)
        if finished.matched is not None:
            matched.append(finished.matched)
            progress.matched(finished.matched)
            if (problem := trouble(finished.matched)) is not None:
                progress.note(problem)
        if journal is not None:
            _keep(model, journal, index, finished)
        block.layers.clear()
        if stream is not None and index + 1 < len(job.blocks):
            stream.advance(index)
    return records, matched


def _matcher(stream: Stream | None, recipe: Recipe) -> Matcher | None:
    if stream is None or recipe.matching is None:
        return None
    return Matcher(stream, recipe.matching, dtype=recipe.forward_dtype, device=recipe.device, seed=recipe.seed)


def _match(
    model: nn.Module,
    matcher: Matcher,
    index: int,
    block: BlockJob,
    finished: Finished,
    originals: dict[str, nn.Module] | None,
) -> None:
    """Train the block and put what came out into the model and into `finished`."""
    layers, finished.vectors, finished.matched = matcher.match(index, block.block)
    for name, layer in layers.items():
        _replace(model, name, layer, originals)
        finished.layers[name] = layer, finished.layers[name][1]


def _replace(model: nn.Module, name: str, module: nn.Module, originals: dict[str, nn.Module] | None) -> None:
    if originals is not None:
        originals.setdefault(name, model.get_submodule(name))
    replace_module(model, name, module)


def _set_vectors(model: nn.Module, vectors: dict[str, Tensor], originals: dict[str, nn.Module] | None) -> None:
    """Give parameters of normalisations new values; of a model that must be restorable, in copies of their modules."""
    for name, values in vectors.items():
        owner = name.rpartition(".")[0]
        if originals is not None and owner not in originals:
            _replace(model, owner, copy.deepcopy(model.get_submodule(owner)), originals)
        parameter = model.get_parameter(name)
        parameter.data = values.to(parameter.device, parameter.dtype)


def _block(
    block: BlockJob,
    index: int,
    stream: Stream | None,
    dense: DenseStream | None,
    recipe: Recipe,
    earlier: Finished | None,
) -> Iterator[Replacement]:
    """The compressed layers of a block, those that the solver takes together in one piece."""
    if earlier is not None:
        for job in block.layers:
            compressed, record = earlier.layers[job.layer.name]
            yield job.layer, compressed.to(job.layer.weight.device), record
        return
    for layers, group in _inputs(block, index, stream, dense, recipe.sequential):
        yield from _compress(layers, group, recipe)


def _keep(model: nn.Module, journal: Journal, index: int, finished: Finished) -> None:
    """Write the block down; what lay in host memory is mapped from the file from then on."""
    if not finished.layers or index in journal:
        return
    for name, layer in journal.write(index, finished).items():
        replace_module(model, name, layer.to(finished.layers[name][0].weight_packed.device))


def _inputs(
    block: BlockJob, index: int, stream: Stream | None, dense: DenseStream | None, sequential: bool
) -> Iterator[tuple[list[LayerJob], GramGroup | None]]:
    """The layers that one call of the solver takes, with what is known of the input they share.

    sequential: taken anew for each, when the layers before it have been replaced.
    """
    if stream is None:
        yield from (([job], None) for job in block.layers)
        return
    jobs = {job.layer.name: job for job in block.layers}
    groups = stream.grams(index, [job.layer for job in block.layers]) if jobs else []
    if dense is not None and groups:
        dense.measure(index, groups)
    total = len(groups)
    while groups:
        group = groups.pop(0)
        if sequential and len(groups) < total - 1:
            group = stream.grams(index, group.layers)[0]
        for alike in _alike([jobs[layer.name] for layer in group.layers]):
            yield alike, group


def _alike(jobs: list[LayerJob]) -> list[list[LayerJob]]:
    """Split layers of one input by what must be equal within one call of the solver: all but the rank."""
    parts: dict[object, list[LayerJob]] = {}
    for job in jobs:
        plan = job.plan
        key = (plan.method, tuple(sorted(plan.options.items())), plan.pattern, plan.damping)
        parts.setdefault(key, []).append(job)
    return list(parts.values())


def _compress(jobs: list[LayerJob], group: GramGroup | None, recipe: Recipe) -> Iterator[Replacement]:
    gram = None if group is None else group.gram
    weights = [job.layer.weight.to(recipe.device, torch.float32) for job in jobs]
    if group is not None and group.drift is not None:
        weights = retarget(weights, group.gram, group.drift, damping=jobs[0].plan.damping, share=recipe.repair)
    results = _solve(jobs, weights, gram, recipe.seed)
    matrix = None if gram is None else gram.matrix()
    tokens = 0 if gram is None else gram.tokens
    whole = sum(w.numel() for w in weights)
    for job, w, result in zip(jobs, weights, results, strict=True):
        layer = _stored(job, result, getattr(torch, recipe.dtype))
        loss = None if matrix is None else relative_loss(w, layer.dense_weight(), matrix)
        record = _record(job, layer, result, loss, tokens, result.report.seconds * w.numel() / whole)
        yield job.layer, layer.to(job.layer.weight.device), record


def _solve(jobs: list[LayerJob], weights: list[Tensor], gram: Gram | None, seed: int) -> list[Decomposition]:
    plan, names = jobs[0].plan, [job.layer.name for job in jobs]
    try:
        return decompose(
            weights,
            gram,
            method=plan.method,
            pattern=plan.pattern,
            ranks=[job.plan.rank for job in jobs],
            damping=plan.damping,
            options=plan.options,
            seed=seed,
            names=names,
        )
    except ValueError as error:
        if any(name in str(error) for name in names):
            raise
        # What is wrong with a Gram matrix is wrong for all the layers that share it.
        raise ValueError(f"{' = '.join(names)}: {error}") from error


def _stored(job: LayerJob, result: Decomposition, dtype: torch.dtype) -> SparseLowRankLinear:
    bias = job.layer.bias
    try:
        return SparseLowRankLinear.from_decomposition(
            result.s,
            result.u,
            result.v,
            None if bias is None else bias.to(result.s.device),
            job.plan.pattern,
            dtype,
            result.signed,
        )
    except ValueError as error:
        raise ValueError(f"{job.layer.name}: {error}") from error


def _record(
    job: LayerJob,
    layer: SparseLowRankLinear,
    result: Decomposition,
    loss: float | None,
    tokens: int,
    seconds: float,
) -> LayerRecord:
    report = result.report
    d_out, d_in = job.layer.shape
    return LayerRecord(
        name=job.layer.name,
        method=job.plan.method,
        pattern=job.plan.pattern,
        format=layer.format,
        rank=layer.rank,
        d_out=d_out,
        d_in=d_in,
        density=report.density,
        relative_loss=report.relative_loss if math.isfinite(report.relative_loss) else None,
        stored_relative_loss=loss,
        iterations=report.iterations,
        status=report.status,
        damping_used=report.damping_used,
        dead_columns=report.dead_columns,
        tokens=tokens,
        seconds=seconds,
        dense_bytes=d_out * d_in * layer.weight_packed.element_size(),
        stored_bytes=layer.stored_bytes,
        sign_rank=layer.sign_rank,
    )
