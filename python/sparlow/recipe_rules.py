"""How a recipe and its overrides become the plan of one layer, and what may be combined with what."""

from __future__ import annotations

from dataclasses import dataclass, field

from .allocation.settings import Allocation
from .budget import OPEN_PATTERNS, check_rank_left, closed_pattern, rank_within, sign_share
from .solve import Damping, OptionValue, check_options, method_info, parse_pattern, sign_rank

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
    """A recipe with one override applied, before the shape of a layer is known.

    allocated: its budget is shared out among the layers, so that a layer may go without a low-rank part.
    """

    method: str
    options: dict[str, OptionValue]
    pattern: str
    rank: int | None
    budget: float | None
    damping: Damping
    value_bits: int = 16
    allocated: bool = False

    def plan(self, name: str, d_out: int, d_in: int) -> LayerPlan:
        """The plan of the d_out x d_in layer `name`; ValueError naming it if rank or budget do not fit."""
        rank, pattern, signed = self.rank, self.pattern, sign_rank(self.method, self.options)
        if self.budget is not None and pattern in OPEN_PATTERNS:
            rank = rank or 0
            terms = rank * (d_out + d_in) / (d_out * d_in) + sign_share(d_out, d_in, signed, self.value_bits)
            pattern = closed_pattern(name, pattern, self.budget, terms, (d_out, d_in))
        elif self.budget is not None:
            terms = parse_pattern(pattern).density + sign_share(d_out, d_in, signed, self.value_bits)
            rank = rank_within(name, self.budget, terms, (d_out, d_in))
            if rank == 0 and not self.allocated:
                check_rank_left(name, self.budget, terms, (d_out, d_in))
        if rank is None:
            rank = DEFAULT_RANK if method_info(self.method).low_rank else 0
        if rank > min(d_out, d_in):
            raise ValueError(
                f"{name}: rank {rank} is larger than min(d_out, d_in) = {min(d_out, d_in)} of its "
                f"{d_out} x {d_in} weight; lower the rank, or exclude the layer"
            )
        return LayerPlan(self.method, dict(self.options), pattern, rank, self.damping)

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
        pattern, low_rank = pattern or self.pattern, method_info(chosen).low_rank
        size = (self.rank, self.budget)
        if pattern in OPEN_PATTERNS:  # rank and budget stand side by side
            size = (rank if rank is not None else self.rank if low_rank else 0, budget or self.budget)
        elif rank is not None or budget is not None:
            size = (rank, budget)
        elif not low_rank:
            size = (0, None)
        return Choice(chosen, merged, pattern, *size, damping or self.damping, self.value_bits, self.allocated)


def check_low_rank(where: str, method: str, pattern: str, rank: int | None, budget: float | None) -> None:
    """Refuse rank and budget together, and either of them for a method without a low-rank part.

    With an open density ("@row", "@matrix") the budget decides that instead of the rank, so both may be given.
    """
    density_is_open = pattern in OPEN_PATTERNS
    if rank is not None and budget is not None and not density_is_open:
        raise ValueError(f"{where} gives both rank ({rank}) and budget ({budget}); give one of them")
    if not method_info(method).low_rank and (rank or (budget is not None and not density_is_open)):
        hint = "" if rank else ", or let the budget decide the density with pattern '@row'"
        raise ValueError(
            f"{where} asks for a low-rank part, but method '{method}' has none; remove rank and budget{hint}"
        )


def check_choice(where: str, choice: Choice) -> None:
    """Check the method and its options, the pattern, and the budget against the pattern."""
    try:
        check_options(choice.method, choice.options)
        density = 0.0 if choice.pattern in OPEN_PATTERNS else parse_pattern(choice.pattern).density
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if choice.pattern in OPEN_PATTERNS and choice.budget is None:
        raise ValueError(
            f"{where}: pattern '{choice.pattern}' leaves the density to the budget, but there is none; "
            f"give budget, or a density such as '0.5{choice.pattern}'"
        )
    if choice.budget is not None and choice.budget < density:
        raise ValueError(
            f"{where}: budget {choice.budget} is below the density {density} of pattern '{choice.pattern}' "
            f"alone; the nearest feasible budget is {density}, or choose a sparser pattern"
        )


def check_allocation(choice: Choice, allocation: Allocation) -> None:
    """Refuse an allocation that decides what the recipe already does, or that its method cannot follow."""
    if choice.budget is None:
        raise ValueError("allocation shares out the budget of the whole model; give budget, the fraction kept in total")
    if choice.rank is not None:
        raise ValueError(f"allocation decides the ranks, but rank {choice.rank} is given too; remove one of them")
    if choice.pattern not in OPEN_PATTERNS and allocation.low_rank != Allocation().low_rank:
        raise ValueError(
            f"pattern '{choice.pattern}' fixes the density, so allocation.low_rank has nothing to share out; remove "
            "it, or use pattern '@row' or '@matrix'"
        )
    if allocation.strategy in ("score", "policy") and not method_info(choice.method).low_rank:
        raise ValueError(
            f"allocation strategy '{allocation.strategy}' selects singular triplets, but method '{choice.method}' has "
            "no low-rank part; use strategy 'owl', 'loss' or 'greedy'"
        )
