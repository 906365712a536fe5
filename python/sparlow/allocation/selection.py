"""Strategies that select among the singular triplets and entries of all layers: by initial score, or by policy."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from sparlow.allocation.groups import Candidates, keep_best, split_by_method, split_by_rpca
from sparlow.allocation.measure import ModelLoss, lent_model, quick_plan, solve_layer
from sparlow.allocation.policy import Policy, project, start
from sparlow.allocation.ratios import shifted, split
from sparlow.allocation.sensitivity import Sensitivity
from sparlow.allocation.setting import Plans, Setting
from sparlow.allocation.slots import Slot

_RANKS_ABOVE_MEAN = 3  # candidates of a layer whose density is given: so many times the rank of the mean share


def by_score(setting: Setting) -> Plans:
    """The groups of largest initial score that fit."""
    candidates = _candidates(setting)
    scores, costs = _flat(candidates)
    order = scores.argsort(descending=True, stable=True).tolist()
    return _plans(setting, candidates, keep_best(order, costs, setting.total - sum(c.base for c in candidates)))


def by_policy(setting: Setting) -> Plans:
    """The groups of largest probability that fit, after policy steps on the model's loss."""
    settings = setting.settings
    _check_steps(setting)
    candidates = _candidates(setting)
    scores, costs = _flat(candidates)
    spare = setting.total - sum(c.base for c in candidates)
    first = start(scores, costs, spare, settings.floor)
    policy = Policy(first, costs, spare, settings.step, settings.floor, settings.window)
    with lent_model(setting.model, setting.job, setting.recipe) as loss:
        _learn(policy, _Masked(loss, candidates), setting, scores)
    ranked = sorted(range(len(costs)), key=lambda k: (-float(policy.probabilities[k]), -float(scores[k])))
    moved = float((policy.probabilities - project(first, costs, spare, settings.floor)).abs().mean())
    setting.note(
        f"allocation: {len(costs)} groups learned from {_steps(setting)} losses, probabilities moved by {moved:.3f} on "
        "average"
    )
    return _plans(setting, candidates, keep_best(ranked, costs, spare))


def _steps(setting: Setting) -> int:
    return setting.settings.passes * -(-len(setting.windows) // setting.recipe.calibration.batch)


def _check_steps(setting: Setting) -> None:
    windows, batch, passes = len(setting.windows), setting.recipe.calibration.batch, setting.settings.passes
    if _steps(setting) < 2:
        raise ValueError(
            f"allocation strategy 'policy': {windows} calibration windows in batches of {batch} and {passes} pass give "
            "one loss, which only sets the baseline; use more windows, a smaller calibration.batch, or more passes"
        )


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
    sensitivity = Sensitivity(setting)

    def visit(slot: Slot, w: Tensor, gram: Tensor) -> None:
        sensitivity.add(slot, w, gram)
        if slot.open:
            found[slot.name] = split_by_rpca(slot, w, gram, bins)
            return
        mean = max(1, round((setting.mean * slot.size - slot.least) / slot.triplet))
        plan = quick_plan(slot.decided(0, min(_RANKS_ABOVE_MEAN * mean, min(slot.shape))))
        parts = solve_layer(slot.name, w, gram, plan, seed)
        fixed = parts.s if parts.signed is None else parts.s + parts.signed.dense()
        found[slot.name] = split_by_method(slot, fixed, parts.u, parts.v, w, gram, bins)

    setting.visit(visit)
    weights = sensitivity.weights()
    return [
        dataclasses.replace(found[slot.name], scores=found[slot.name].scores * weights[slot.name])
        for slot in setting.slots
    ]


def _flat(candidates: list[Candidates]) -> tuple[Tensor, Tensor]:
    return torch.cat([c.scores for c in candidates]), torch.cat([c.costs for c in candidates])


def _plans(setting: Setting, candidates: list[Candidates], kept: Tensor) -> Plans:
    """What was kept, or, where `low_rank` divides a layer's budget, as many values so divided."""
    parts = torch.split(kept, [len(c.costs) for c in candidates])
    plans = {c.slot.name: c.plan(part) for c, part in zip(candidates, parts, strict=True)}
    low_rank, slots = setting.settings.low_rank, setting.slots
    if low_rank is None or not any(slot.open for slot in slots):
        return plans
    shares = [slot.cost(plans[slot.name]) / slot.size for slot in slots]
    for slot, values in zip(slots, shifted(slots, shares, setting.total), strict=True):
        plans[slot.name] = split(slot, values, low_rank if low_rank * (values - slot.fixed) >= slot.triplet else 0.0)
    return plans
