"""What every strategy works on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparlow.allocation.measure import visit_layers
from sparlow.allocation.ratios import split
from sparlow.allocation.settings import Allocation
from sparlow.allocation.slots import Slot
from sparlow.job import Job, LayerJob
from sparlow.recipe import Recipe
from sparlow.recipe_rules import LayerPlan

Plans = dict[str, LayerPlan]


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
        low_rank = self.settings.split_share if slot.open and slot.low_rank else 0.0
        return split(slot, values, low_rank if low_rank * (values - slot.fixed) >= slot.triplet else 0.0)
