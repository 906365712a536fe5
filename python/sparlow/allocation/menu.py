"""The options that the greedy strategy weighs: per layer a grid of ranks and densities, each with its measured loss."""

from __future__ import annotations

from torch import Tensor

from sparlow.allocation.knapsack import Option
from sparlow.allocation.measure import quick_plan, solve_layer
from sparlow.allocation.slots import Slot
from sparlow.recipe_rules import LayerPlan

# Shares of the mean budget that a layer's options take, and what part of them goes to the low-rank part.
_OPEN_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
_LOW_RANK_SCALES = (0.0, 1.0)
# With the density given, only the ranks can change: scales of what the mean budget leaves for them.
_RANK_SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


def plans_of(slot: Slot, budget: float, low_rank: float) -> list[LayerPlan]:
    """Plans around the mean budget, without repetitions.

    None is far below it: how the model's loss rises is measured at the mean, and tells nothing of layers that are gone.
    """
    plans: dict[tuple[str, int], LayerPlan] = {}
    for scale in _OPEN_SCALES if slot.open else _RANK_SCALES:
        for plan in _plans_at(slot, _values(slot, budget, scale), low_rank):
            plans[plan.pattern, plan.rank] = plan
    return list(plans.values())


def _values(slot: Slot, budget: float, scale: float) -> float:
    mean = budget * slot.size
    scaled = scale * mean if slot.open else slot.least + scale * max(0.0, mean - slot.least)
    return min(max(scaled, slot.least), slot.most)


def _plans_at(slot: Slot, values: float, low_rank: float) -> list[LayerPlan]:
    if not slot.open:
        rank = int((values - slot.least) / slot.triplet + 1e-9)
        return [slot.decided(0, min(rank, min(slot.shape)) if slot.low_rank else 0)]
    spare = values - slot.fixed
    shares = {low_rank * scale for scale in _LOW_RANK_SCALES} if slot.low_rank else {0.0}
    ranks = {min(int(share * spare / slot.triplet), min(slot.shape)) for share in shares}
    return [slot.decided(spare - rank * slot.triplet, rank) for rank in sorted(ranks)]


def menu_of(
    slot: Slot, w: Tensor, gram: Tensor, budget: float, low_rank: float, dense: bool, seed: int
) -> list[Option]:
    """The options of one layer with their relative losses; dense: with the layer as it is among them."""
    options = []
    for plan in plans_of(slot, budget, low_rank):
        report = solve_layer(slot.name, w, gram, quick_plan(plan), seed).report
        options.append(Option(plan, slot.cost(plan), report.relative_loss))
    if dense:
        options.append(Option(LayerPlan("magnitude", pattern="dense"), slot.size, 0.0))  # all of its entries
    return options
