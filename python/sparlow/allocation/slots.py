"""What an allocation decides about: one slot per layer, its costs, and the plan that a decision means.

Costs are counted in stored values: a sparse entry 1, a singular triplet d_out + d_in, 16 signs or positions of a
16-bit recipe 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sparlow.budget import OPEN_PATTERNS, sign_share
from sparlow.job import Job, LayerJob
from sparlow.recipe_rules import LayerPlan
from sparlow.solve import method_info, parse_pattern, sign_rank


@dataclass(frozen=True)
class Slot:
    """One layer. block: index of its block; fixed: values that signs and counted positions take; plan: its template.

    open: the density is to be decided, else it is that of the plan's pattern.
    """

    name: str
    block: int
    shape: tuple[int, int]
    plan: LayerPlan
    pattern: str
    fixed: float
    low_rank: bool

    @property
    def size(self) -> int:
        """d_out * d_in, the values of the dense layer."""
        return self.shape[0] * self.shape[1]

    @property
    def triplet(self) -> int:
        """Values of one singular triplet."""
        return self.shape[0] + self.shape[1]

    @property
    def open(self) -> bool:
        return self.pattern in OPEN_PATTERNS

    @property
    def least(self) -> float:
        """Values of the smallest plan: no low-rank part and, where the density is open, one entry per row or matrix."""
        if self.open:
            return self.fixed + (self.shape[0] if self.pattern == "@row" else 1)
        return self.fixed + parse_pattern(self.pattern).kept(*self.shape)

    @property
    def most(self) -> float:
        """Values of the largest plan."""
        if self.open:
            return self.fixed + self.size
        return self.least + (min(self.shape) * self.triplet if self.low_rank else 0)

    def decided(self, entries: float, rank: int) -> LayerPlan:
        """The plan with at most `entries` sparse entries (read only where the density is open) and this rank."""
        pattern = self.pattern
        if self.open:
            length = self.shape[1] if pattern == "@row" else self.size
            kept = min(length, max(1, math.floor(entries / (self.size / length) + 1e-9)))
            pattern = f"{kept / length:.12g}{pattern}" if kept < length else "dense"
        return dataclasses.replace(self.plan, pattern=pattern, rank=rank)

    def cost(self, plan: LayerPlan) -> float:
        """Values that a plan of this slot takes."""
        return self.fixed + parse_pattern(plan.pattern).kept(*self.shape) + plan.rank * self.triplet


def make_slots(job: Job, patterns: Mapping[str, str], count: str, dtype: str) -> list[Slot]:
    """The layers of a job in order. patterns: by layer, as the recipe has them, open ones included."""
    bits = 8 * getattr(torch, dtype).itemsize
    return [
        _slot(layer, index, patterns[layer.layer.name], count, bits)
        for index, block in enumerate(job.blocks)
        for layer in block.layers
    ]


def _slot(job: LayerJob, block: int, pattern: str, count: str, bits: int) -> Slot:
    (d_out, d_in), plan = job.layer.shape, job.plan
    fixed = sign_share(d_out, d_in, sign_rank(plan.method, plan.options), bits) * d_out * d_in
    if count == "bytes" and pattern != "dense":
        fixed += d_out * 8 * ((d_in + 7) // 8) / bits
    return Slot(job.layer.name, block, (d_out, d_in), plan, pattern, fixed, method_info(plan.method).low_rank)


def check_feasible(slots: Sequence[Slot], budget: float) -> float:
    """The values that all slots may take together; ValueError with the nearest feasible budget if that cannot be."""
    size = sum(slot.size for slot in slots)
    least, most = sum(slot.least for slot in slots) / size, sum(slot.most for slot in slots) / size
    if budget < least:
        raise ValueError(
            f"allocation: the sparse parts and signs of the {len(slots)} layers need {least:.4f} of their values, the "
            f"budget is {budget}; the nearest feasible budget is {math.ceil(least * 1e4) / 1e4}"
        )
    if budget > most:
        raise ValueError(
            f"allocation: the {len(slots)} layers can hold at most {most:.4f} of their values under these patterns, "
            f"the budget is {budget}; the nearest feasible budget is {math.floor(most * 1e4) / 1e4}"
        )
    return budget * size
