"""Strategies that share the budget out by what is measured of each layer, and the table of all strategies."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparlow.allocation.knapsack import Option, choose
from sparlow.allocation.measure import outlying_share, quick_plan, solve_layer
from sparlow.allocation.menu import menu_of
from sparlow.allocation.ratios import shares_by_statistic, split
from sparlow.allocation.selection import by_policy, by_score
from sparlow.allocation.sensitivity import Sensitivity
from sparlow.allocation.setting import Plans, Setting
from sparlow.allocation.slots import Slot


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
    return {
        slot.name: split(slot, value, setting.settings.split_share)
        for slot, value in zip(setting.slots, values, strict=True)
    }


def by_measured_loss(setting: Setting) -> Plans:
    """Greedy: what saves most loss per value, from losses measured on a grid."""
    settings, seed = setting.settings, setting.recipe.seed
    menus: dict[str, list[Option]] = {}
    sensitivity = Sensitivity(setting)

    def visit(slot: Slot, w: Tensor, gram: Tensor) -> None:
        menus[slot.name] = menu_of(slot, w, gram, setting.mean, settings.split_share, settings.dense, seed)
        sensitivity.add(slot, w, gram)

    setting.visit(visit)
    weights = sensitivity.weights()
    weighed = [
        [Option(o.plan, o.cost, o.loss * weights[slot.name]) for o in menus[slot.name]] for slot in setting.slots
    ]
    chosen = choose(weighed, setting.total)
    return {slot.name: option.plan for slot, option in zip(setting.slots, chosen, strict=True)}


STRATEGIES: dict[str, Callable[[Setting], Plans]] = {
    "owl": by_outliers,
    "loss": by_loss,
    "greedy": by_measured_loss,
    "score": by_score,
    "policy": by_policy,
}
