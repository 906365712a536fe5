"""One option per layer under one budget, the weighted sum of their losses as small as a greedy descent finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparlow.recipe_rules import LayerPlan


@dataclass(frozen=True)
class Option:
    """A plan of one layer: values it takes, and its loss, comparable with those of other layers."""

    plan: LayerPlan
    cost: float
    loss: float


def lower_hull(options: Sequence[Option]) -> list[Option]:
    """The options worth considering: by rising cost, each with a smaller loss than a mix of its neighbours."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda o: (o.cost, o.loss)):
        if hull and option.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def choose(menus: Sequence[Sequence[Option]], total: float) -> list[Option]:
    """One option of every menu, together within `total`: upgrades in the order of loss saved per value.

    On the hulls of the menus this is the optimum of the relaxed problem up to the last upgrade; what that one leaves
    is spent on the best upgrades that still fit. The cheapest options of all menus must fit.
    """
    hulls = [lower_hull(menu) for menu in menus]
    places = [0] * len(hulls)
    spare = total - sum(hull[0].cost for hull in hulls)
    upgrades = sorted(
        (-_gain(hull[i], hull[i + 1]), index, i) for index, hull in enumerate(hulls) for i in range(len(hull) - 1)
    )
    for _, index, i in upgrades:
        step = hulls[index][i + 1].cost - hulls[index][places[index]].cost
        # A hull's gains fall, so the upgrade before this one came first; if it did not fit, this one may not either.
        if step <= spare:
            places[index], spare = i + 1, spare - step
    return [hull[place] for hull, place in zip(hulls, places, strict=True)]


def _gain(cheap: Option, dear: Option) -> float:
    return (cheap.loss - dear.loss) / (dear.cost - cheap.cost)
