"""compress() and plan(): from a dense model and a recipe to a compressed model, or to what it would take."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import checkpoint, hf
from .allocation.apply import allocate
from .calibration import Windows
from .dense import check_dense, load_dense, load_skeleton
from .device import missing_gpu
from .estimate import estimate_plan
from .job import Job, check_weights, job_windows, make_job
from .journal import Journal, open_journal, tell_kept
from .matching.stage import batch_sizes
from .models import describe_non_finite, replace_module
from .recipe import Recipe
from .records import LayerRecord, MatchingRecord, Plan, Progress, Silent
from .solve import backend_for
from .stacks import stack
from .stream import Stream
from .traversal import traverse

ModelSource = PreTrainedModel | str | os.PathLike[str]


@dataclass
class Compressed:
    """A compressed model, ready to run or to save.

    model: the model with its linears replaced, every floating point parameter in the recipe's dtype.
    calibration_hash: SHA-256 of the calibration windows, None if there were none. seconds: of the whole
    run, loading included. matching: one record per block whose layers were trained together.
    """

    model: PreTrainedModel
    tokenizer: Any
    recipe: Recipe
    layers: list[LayerRecord]
    seconds: float
    calibration_hash: str | None
    matching: list[MatchingRecord] = field(default_factory=list)
    journal: Journal | None = None

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write a checkpoint folder; see `sparlow.checkpoint.save`. The journal of the run is removed then."""
        try:
            saved = checkpoint.save(self, path, overwrite)
        except BaseException as error:
            if self.journal is not None:
                tell_kept(error, self.journal.folder)
            raise
        if self.journal is not None:
            self.journal.remove()
        return saved


def compress(
    model_or_path: ModelSource,
    recipe: Recipe,
    *,
    tokenizer: Any = None,
    tokens: Tensor | None = None,
    progress: Progress | None = None,
    journal: str | os.PathLike[str] | None = None,
    restart: bool = False,
) -> Compressed:
    """Compress the linear layers of a decoder model.

    Args:
        model_or_path: a transformers model, which is changed in place; or a folder or name for
        `from_pretrained`; or a .gguf file.
        tokenizer: for text calibration; default: the one beside the model.
        tokens: calibration token ids, [n] or [windows, window_tokens], instead of the recipe's source.
        progress: told what happens; default: nobody.
        journal: a folder that receives every finished block. If it holds blocks of an interrupted run of the same
        model, recipe and tokens, the run goes on from there (device and batch size may differ). `Compressed.save`
        removes it. restart: begin anew, whatever it holds.

    Raises:
        ValueError: a layer, pattern, weight, activation or calibration source that does not fit; names it.
        RuntimeError: the device is not available. OSError: a file is.
        A model that was passed in is as it was before, whatever is raised, Ctrl-C included.
    """
    started = time.perf_counter()
    progress = progress or Silent()
    _check_device(recipe.device)
    model, own_tokenizer = _open(model_or_path)
    tokenizer = tokenizer or own_tokenizer
    originals: dict[str, nn.Module] | None = {} if model is model_or_path else None
    training = model.training
    model.train(False)
    try:
        windows, job = _prepare(model, recipe, tokenizer, tokens)
        if windows is not None:
            job = allocate(model, job, recipe, windows.ids, progress.note)
        calibration_hash = None if windows is None else windows.hash
        kept = None if journal is None else open_journal(journal, model, recipe, calibration_hash, restart)
        stream = _stream(model, job, windows, recipe, progress)
        layers, matched = traverse(model, job, stream, recipe, progress, originals, kept)
        _finish(model, recipe)
    except BaseException as error:
        for name, module in (originals or {}).items():
            replace_module(model, name, module)
        if journal is not None:
            tell_kept(error, journal)
        raise
    finally:
        model.train(training)
    return Compressed(model, tokenizer, recipe, layers, time.perf_counter() - started, calibration_hash, matched, kept)


def plan(model_or_path: ModelSource, recipe: Recipe) -> Plan:
    """The layers a recipe matches, with an estimate of memory and time. Reads neither weights nor calibration data.

    Raises ValueError for whatever `compress` refuses about names, patterns, ranks and shapes.
    """
    if isinstance(model_or_path, PreTrainedModel):
        check_dense(model_or_path)
        skeleton = model_or_path
    else:
        skeleton = load_skeleton(model_or_path)
    return estimate_plan(skeleton, make_job(skeleton, recipe), recipe)


def _check_device(device: str) -> None:
    """RuntimeError if the device, or the part of sparlow that works there, is missing."""
    if (reason := missing_gpu(device)) is not None:
        raise RuntimeError(reason)
    backend_for(device)


def _open(model_or_path: ModelSource) -> tuple[PreTrainedModel, Any]:
    if isinstance(model_or_path, PreTrainedModel):
        check_dense(model_or_path)
        return model_or_path, None
    return load_dense(model_or_path)


def _prepare(
    model: PreTrainedModel, recipe: Recipe, tokenizer: Any, tokens: Tensor | None
) -> tuple[Windows | None, Job]:
    """What there is to do and with which data, checked as a whole."""
    job = make_job(model, recipe)
    check_weights(job)
    return job_windows(job, model, recipe, tokenizer, tokens), job


def _stream(
    model: PreTrainedModel, job: Job, windows: Windows | None, recipe: Recipe, progress: Progress
) -> Stream | None:
    for note in job.notes:
        progress.note(note)
    progress.start(len(job.blocks), len(job.layers))
    if windows is None:
        return None
    matching = recipe.matching
    return Stream(
        model,
        job.all_blocks,
        windows.ids,
        batch=recipe.calibration.batch if matching is None else batch_sizes(len(windows.ids), matching),
        dtype=recipe.forward_dtype,
        device=recipe.device,
    )


def _finish(model: PreTrainedModel, recipe: Recipe) -> None:
    """One dtype for all parameters, and the mark that makes transformers save and load the packed layers."""
    dtype = getattr(torch, recipe.dtype)
    # Not model.to(dtype): that would also round the rotary tables, which a loaded model computes in float32.
    floats = [(name, p) for name, p in model.named_parameters() if p.is_floating_point()]
    rounded = [p.detach().to(dtype) for _, p in floats]
    for (name, _), values in zip(floats, rounded, strict=True):
        if (problem := describe_non_finite(values)) is not None:
            raise ValueError(f"{name} holds {problem} in {dtype}; choose a dtype with a wider range")
    for (_, parameter), values in zip(floats, rounded, strict=True):
        parameter.data = values
    model.config.dtype = dtype
    hf.attach(model, recipe.published())
    stack(model)
