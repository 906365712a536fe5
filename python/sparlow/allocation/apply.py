"""From a job whose layers all have the same budget to one whose plans an allocation decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sparlow.allocation.setting import Plans, Setting
from sparlow.allocation.slots import Slot, check_feasible, make_slots
from sparlow.allocation.strategies import STRATEGIES
from sparlow.job import BlockJob, Job, LayerJob
from sparlow.recipe import Recipe


def allocate(model: Any, job: Job, recipe: Recipe, windows: Tensor, note: Callable[[str], None]) -> Job:
    """The job with the plans that the recipe's allocation decides; the model is as before afterwards.

    windows: calibration token ids [windows, tokens]. Raises ValueError for a budget that no plans meet, with the
    nearest that can be met, and for layers whose low-rank part would vanish.
    """
    settings = recipe.allocation
    if settings is None or recipe.budget is None:
        return job
    patterns = {layer.layer.name: recipe.pattern_of(layer.layer.name) for layer in job.layers}
    slots = make_slots(job, patterns, settings.count, recipe.dtype)
    total = check_feasible(slots, recipe.budget)
    setting = Setting(model, job, slots, total, windows, recipe, settings, note)
    plans = STRATEGIES[settings.strategy](setting)
    note(_summary(slots, plans, total))
    return with_plans(job, plans)


def with_plans(job: Job, plans: Plans) -> Job:
    """The job with other plans for its layers, by name."""
    blocks = [
        BlockJob(block.block, [LayerJob(layer.layer, plans[layer.layer.name]) for layer in block.layers])
        for block in job.blocks
    ]
    return dataclasses.replace(job, blocks=blocks)


def _summary(slots: list[Slot], plans: Plans, total: float) -> str:
    used = sum(slot.cost(plans[slot.name]) for slot in slots)
    ranks = [plans[slot.name].rank for slot in slots]
    return f"allocation: ranks {min(ranks)} to {max(ranks)}, {used / total:.4f} of the budget used"
