"""Strategies that share the budget out by what is measured of each layer, and the table of all strategies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparlow.allocation.knapsack import Option, choose
from sparlow.allocation.measure import lent_model, outlying_share, quick_plan, solve_layer
from sparlow.allocation.menu import menu_of, weights_by_model
from sparlow.allocation.ratios import shares_by_statistic, split
from sparlow.allocation.selection import by_policy, by_score
from sparlow.allocation.setting import Plans, Setting
from sparlow.allocation.slots import Slot

_PROBE_WINDOWS = 16  # that tell how much the model's loss rises with one layer compressed


def by_outliers(setting: Setting) -> Plans:
    """OWL: more for the blocks with more outlying Wanda scores."""
    blocks: dict[int, list[tuple[Tensor, Tensor]]] = {}
    found: dict[int, float] = {}

    def visit(slot: Slot, w: Tensor, gram: Tensor) -> None:
        blocks.setdefault(slot.block, []).append((w, gram))
        if len(blocks[slot.block]) == sum(other.block == slot.block for other in setting.slots):
            found[slot.block] = 100 * outlying_share(blocks.pop(slot.block), setting.settings.outlier)

    setting.visit(visit)
    return _by_statistic(setting, [found[slot.block] for slot in setting.slots])


def by_loss(setting: Setting) -> Plans:
    """More for the layers that lose more at equal shares."""
    losses: dict[str, float] = {}

    def visit(slot: Slot, w: Tensor, gram: Tensor) -> None:
        plan = quick_plan(setting.mean_plan(slot))
        losses[slot.name] = solve_layer(slot.name, w, gram, plan, setting.recipe.seed).report.relative_loss

    setting.visit(visit)
    return _by_statistic(setting, [losses[slot.name] for slot in setting.slots])


def _by_statistic(setting: Setting, statistics: list[float]) -> Plans:
    values = shares_by_statistic(setting.slots, statistics, setting.total, setting.settings.spread)
    low_rank = setting.settings.low_rank
    return {slot.name: split(slot, value, low_rank) for slot, value in zip(setting.slots, values, strict=True)}


def by_measured_loss(setting: Setting) -> Plans:
    """Greedy: what saves most loss per value, from losses measured on a grid."""
    settings, seed = setting.settings, setting.recipe.seed
    menus: dict[str, list[Option]] = {}
    alone: dict[str, tuple[float, Tensor]] = {}

    def visit(slot: Slot, w: Tensor, gram: Tensor) -> None:
        menus[slot.name] = menu_of(slot, w, gram, setting.mean, settings.low_rank, settings.dense, 1.0, seed)
        if settings.weight == "model":
            found = solve_layer(slot.name, w, gram, quick_plan(setting.mean_plan(slot)), seed)
            alone[slot.name] = found.report.relative_loss, found.dense().to(setting.recipe.forward_dtype).cpu()

    setting.visit(visit)
    weights = dict.fromkeys(menus, 1.0)
    if settings.weight == "model":
        rises = _rises(setting, {name: w for name, (_, w) in alone.items()})
        weights = weights_by_model({name: loss for name, (loss, _) in alone.items()}, rises, setting.slots)
    weighed = [
        [Option(o.plan, o.cost, o.loss * weights[slot.name]) for o in menus[slot.name]] for slot in setting.slots
    ]
    chosen = choose(weighed, setting.total)
    return {slot.name: option.plan for slot, option in zip(setting.slots, chosen, strict=True)}


def _rises(setting: Setting, weights: dict[str, Tensor]) -> dict[str, float]:
    """By how much the model's loss rises with one layer's weight replaced."""
    with lent_model(setting.model, setting.job, setting.recipe) as loss:
        probes = setting.windows[:_PROBE_WINDOWS].to(setting.recipe.device)
        batches = torch.split(probes, setting.recipe.calibration.batch)

        def total() -> float:
            return sum(loss(batch) * len(batch) for batch in batches) / sum(map(len, batches))

        dense, rises = total(), {}
        for name, w in weights.items():
            with loss.replaced(name, w):
                rises[name] = total() - dense
    return rises


STRATEGIES: dict[str, Callable[[Setting], Plans]] = {
    "owl": by_outliers,
    "loss": by_loss,
    "greedy": by_measured_loss,
    "score": by_score,
    "policy": by_policy,
}
