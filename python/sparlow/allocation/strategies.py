"""The strategies: each turns slots and a total into one plan per layer, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparlow.allocation.groups import Candidates, keep_best, split_by_method, split_by_rpca
from sparlow.allocation.knapsack import Option, choose
from sparlow.allocation.measure import (
    ModelLoss,
    lent_model,
    outlying_share,
    quick_plan,
    solve_layer,
    visit_layers,
)
from sparlow.allocation.menu import menu_of, weights_by_model
from sparlow.allocation.policy import Policy, project, start
from sparlow.allocation.ratios import shares_by_statistic, split
from sparlow.allocation.settings import Allocation
from sparlow.allocation.slots import Slot
from sparlow.job import Job, LayerJob
from sparlow.recipe import Recipe
from sparlow.recipe_rules import LayerPlan

Plans = dict[str, LayerPlan]
_PROBE_WINDOWS = 16  # that tell how much the model's loss rises with one layer compressed
_RANKS_ABOVE_MEAN = 3  # candidates of a layer whose density is given: so many times the rank of the mean share


@dataclass(frozen=True)
class Setting:
    """What a strategy works on. total: values that all slots may take; note: tells the user something."""

    model: Any
    job: Job
    slots: list[Slot]
    total: float
    windows: Tensor
    recipe: Recipe
    settings: Allocation
    note: Callable[[str], None]

    @property
    def mean(self) -> float:
        """The budget as a share."""
        return self.total / sum(slot.size for slot in self.slots)

    def visit(self, visit: Callable[[Slot, Tensor, Tensor], None]) -> None:
        """visit(slot, w, gram) for every layer, on the dense model's activations."""
        by_name = {slot.name: slot for slot in self.slots}

        def on_layer(job: LayerJob, w: Tensor, gram: Tensor) -> None:
            visit(by_name[job.layer.name], w, gram)

        visit_layers(self.model, self.job, self.windows, self.recipe, on_layer)

    def mean_plan(self, slot: Slot) -> LayerPlan:
        """The plan of a slot that takes the mean share."""
        values = min(max(self.mean * slot.size, slot.least), slot.most)
        low_rank = self.settings.low_rank if slot.open and slot.low_rank else 0.0
        return split(slot, values, low_rank if low_rank * (values - slot.fixed) >= slot.triplet else 0.0)


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


def by_score(setting: Setting) -> Plans:
    """The groups of largest initial score that fit."""
    candidates = _candidates(setting)
    scores, costs = _flat(candidates)
    order = scores.argsort(descending=True, stable=True).tolist()
    return _plans(candidates, keep_best(order, costs, setting.total - sum(c.base for c in candidates)))


def by_policy(setting: Setting) -> Plans:
    """The groups of largest probability that fit, after policy steps on the model's loss."""
    settings, candidates = setting.settings, _candidates(setting)
    scores, costs = _flat(candidates)
    spare = setting.total - sum(c.base for c in candidates)
    first = start(scores, costs, spare, settings.floor)
    policy = Policy(first, costs, spare, settings.step, settings.floor, settings.window)
    with lent_model(setting.model, setting.job, setting.recipe) as loss:
        _learn(policy, _Masked(loss, candidates), setting, scores)
    ranked = sorted(range(len(costs)), key=lambda k: (-float(policy.probabilities[k]), -float(scores[k])))
    moved = float((policy.probabilities - project(first, costs, spare, settings.floor)).abs().mean())
    setting.note(f"allocation: {len(costs)} groups, probabilities moved by {moved:.3f} on average")
    return _plans(candidates, keep_best(ranked, costs, spare))


def _learn(policy: Policy, masked: _Masked, setting: Setting, scores: Tensor) -> None:
    settings, random = setting.settings, torch.Generator().manual_seed(setting.recipe.seed)
    batches = torch.split(setting.windows, setting.recipe.calibration.batch)
    for _ in range(settings.passes):
        for k in torch.randperm(len(batches), generator=random).tolist():
            ids, mask = batches[k].to(setting.recipe.device), policy.sample(random)
            value = masked(mask, ids)
            if settings.baseline == "residual":
                ranked = sorted(range(len(scores)), key=lambda g: (-float(policy.probabilities[g]), -float(scores[g])))
                value -= masked(keep_best(ranked, policy.costs, policy.budget), ids)
            policy.learn(mask, value)


class _Masked:
    """Loss of the model with the groups of a mask."""

    def __init__(self, loss: ModelLoss, candidates: list[Candidates]) -> None:
        self._loss, self._candidates = loss, candidates

    def __call__(self, mask: Tensor, ids: Tensor) -> float:
        parts = torch.split(mask, [len(c.costs) for c in self._candidates])
        for candidates, part in zip(self._candidates, parts, strict=True):
            self._loss.weight(candidates.slot.name).copy_(candidates.dense(part))
        return self._loss(ids)


def _candidates(setting: Setting) -> list[Candidates]:
    found: dict[str, Candidates] = {}
    bins, seed = setting.settings.bins, setting.recipe.seed

    def visit(slot: Slot, w: Tensor, gram: Tensor) -> None:
        if slot.open:
            found[slot.name] = split_by_rpca(slot, w, gram, bins)
            return
        mean = max(1, round((setting.mean * slot.size - slot.least) / slot.triplet))
        plan = quick_plan(slot.decided(0, min(_RANKS_ABOVE_MEAN * mean, min(slot.shape))))
        parts = solve_layer(slot.name, w, gram, plan, seed)
        fixed = parts.s if parts.signed is None else parts.s + parts.signed.dense()
        found[slot.name] = split_by_method(slot, fixed, parts.u, parts.v, w, gram, bins)

    setting.visit(visit)
    return [found[slot.name] for slot in setting.slots]


def _flat(candidates: list[Candidates]) -> tuple[Tensor, Tensor]:
    return torch.cat([c.scores for c in candidates]), torch.cat([c.costs for c in candidates])


def _plans(candidates: list[Candidates], kept: Tensor) -> Plans:
    parts = torch.split(kept, [len(c.costs) for c in candidates])
    return {c.slot.name: c.plan(part) for c, part in zip(candidates, parts, strict=True)}


STRATEGIES: dict[str, Callable[[Setting], Plans]] = {
    "owl": by_outliers,
    "loss": by_loss,
    "greedy": by_measured_loss,
    "score": by_score,
    "policy": by_policy,
}
