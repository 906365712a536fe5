"""The `allocation` key of a recipe: how one budget is shared among the layers of a model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sparlow.strict import Strict

Strategy = Literal["owl", "loss", "greedy", "score", "policy"]

# Settings that only some strategies read.
_READERS: dict[str, tuple[Strategy, ...]] = {
    "spread": ("owl", "loss"),
    "outlier": ("owl",),
    "weight": ("greedy", "score", "policy"),
    "dense": ("greedy",),
    "bins": ("score", "policy"),
    "passes": ("policy",),
    "step": ("policy",),
    "baseline": ("policy",),
    "window": ("policy",),
    "floor": ("policy",),
}


DEFAULT_LOW_RANK = 0.25


class Allocation(Strict):
    """Rank and density of every layer, so that all layers together keep the recipe's `budget`.

    strategy: "owl" by the share of outlying Wanda scores per block, "loss" by the loss of each layer at equal shares,
    "greedy" by losses measured on a grid of ranks and densities, "score" the largest singular triplets and entries of
    all layers by initial score, "policy" the same after a policy gradient on the model's loss (arXiv:2505.03801).
    count: what the budget counts: "values", or "bytes", positions of the sparse part included.
    low_rank: share of a layer's budget for its low-rank part, where the pattern leaves the density open; null, for
    "score" and "policy": as many ranks and entries as were selected, as in the paper.
    spread: largest departure from the mean share, half of the range (OWL's lambda). outlier: a Wanda score counts as
    outlying above so many times the mean (OWL's M).
    weight: of a layer's relative loss: "model", how much the model's loss rises when that layer alone is compressed (to
    second order, from its gradients), or "equal". dense: layers may also stay as they are.
    bins: groups of singular triplets, and of entries, per layer; a group is kept or dropped as a whole.
    passes: over the calibration windows, one policy step per batch. step: size of a policy step. baseline: what a loss
    is compared with: "moving_average" of the last `window` losses, or "residual", the loss on the same batch of what
    would be kept now, and then the moving average. floor: probabilities stay in [floor, 1 - floor].
    """

    strategy: Strategy = "policy"
    count: Literal["values", "bytes"] = "values"
    low_rank: float | None = Field(default=DEFAULT_LOW_RANK, ge=0, lt=1)
    spread: float = Field(default=0.08, ge=0, le=0.5)
    outlier: float = Field(default=5.0, gt=0)
    weight: Literal["model", "equal"] = "model"
    dense: bool = False
    bins: int = Field(default=16, ge=1, le=1024)
    passes: int = Field(default=3, ge=1)
    step: float = Field(default=0.05, gt=0)
    baseline: Literal["moving_average", "residual"] = "moving_average"
    window: int = Field(default=5, ge=1)
    floor: float = 0.05

    @model_validator(mode="after")
    def _belong(self) -> Allocation:
        for name, readers in _READERS.items():
            # By value: what was written out with its defaults reads back.
            changed = getattr(self, name) != type(self).model_fields[name].default
            if changed and self.strategy not in readers:
                raise ValueError(f"'{name}' is not read by strategy '{self.strategy}', only by {', '.join(readers)}")
        if self.low_rank is None and self.strategy not in ("score", "policy"):
            raise ValueError(f"strategy '{self.strategy}' selects no ranks: give low_rank a number")
        if not 0 < self.floor < 0.5:
            raise ValueError(
                f"floor is {self.floor}: probabilities of 0 and 1 are never drawn otherwise and cannot be learned; "
                "use a floor above 0 and below 0.5"
            )
        return self

    @property
    def split_share(self) -> float:
        """`low_rank`, its default where the selection decides."""
        return DEFAULT_LOW_RANK if self.low_rank is None else self.low_rank
