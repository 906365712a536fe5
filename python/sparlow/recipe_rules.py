"""How a recipe and its overrides become the plan of one layer, and what may be combined with what."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .solve import Damping, OptionValue, check_options, method_info, parse_pattern

DEFAULT_RANK = 64


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is compressed. rank: columns of U, 0 for none; pattern: as in `parse_pattern`."""

    method: str
    options: dict[str, OptionValue] = field(default_factory=dict)
    pattern: str = "2:4"
    rank: int = 0
    damping: Damping = field(default_factory=Damping)


@dataclass(frozen=True)
class Choice:
    """A recipe with one override applied, before the shape of a layer is known."""

    method: str
    options: dict[str, OptionValue]
    pattern: str
    rank: int | None
    budget: float | None
    damping: Damping

    def plan(self, name: str, d_out: int, d_in: int) -> LayerPlan:
        """The plan of the d_out x d_in layer `name`; ValueError naming it if the rank does not fit."""
        rank = self.rank
        if self.budget is not None:
            spare = self.budget - parse_pattern(self.pattern).density
            # The nudge keeps a product that is a whole number in decimal, but not in binary, from losing one.
            rank = math.floor(spare * d_out * d_in / (d_out + d_in) + 1e-9)
        if rank is None:
            rank = DEFAULT_RANK if method_info(self.method).low_rank else 0
        if rank > min(d_out, d_in):
            raise ValueError(
                f"{name}: rank {rank} is larger than min(d_out, d_in) = {min(d_out, d_in)} of its "
                f"{d_out} x {d_in} weight; lower the rank, or exclude the layer"
            )
        return LayerPlan(self.method, dict(self.options), self.pattern, rank, self.damping)

    def overridden(
        self,
        method: str | None,
        options: dict[str, OptionValue] | None,
        pattern: str | None,
        rank: int | None,
        budget: float | None,
        damping: Damping | None,
    ) -> Choice:
        """This choice with the given settings replaced; None inherits."""
        chosen = method or self.method
        # Options belong to a method: another method starts from its own defaults.
        merged = {**(self.options if chosen == self.method else {}), **(options or {})}
        size = (self.rank, self.budget)
        if rank is not None or budget is not None:
            size = (rank, budget)
        elif not method_info(chosen).low_rank:
            size = (0, None)
        return Choice(chosen, merged, pattern or self.pattern, *size, damping or self.damping)


def check_low_rank(where: str, method: str, rank: int | None, budget: float | None) -> None:
    """Refuse rank and budget together, and either of them for a method without a low-rank part."""
    if rank is not None and budget is not None:
        raise ValueError(f"{where} gives both rank ({rank}) and budget ({budget}); give one of them")
    if not method_info(method).low_rank and (rank or budget is not None):
        raise ValueError(f"{where} asks for a low-rank part, but method '{method}' has none; remove rank and budget")


def check_choice(where: str, choice: Choice) -> None:
    """Check the method and its options, the pattern, and the budget against the pattern."""
    try:
        check_options(choice.method, choice.options)
        density = parse_pattern(choice.pattern).density
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if choice.budget is not None and choice.budget < density:
        raise ValueError(
            f"{where}: budget {choice.budget} is below the density {density} of pattern '{choice.pattern}' "
            f"alone; raise the budget or choose a sparser pattern"
        )
