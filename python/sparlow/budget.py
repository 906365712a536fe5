"""Arithmetic of a budget: the share of a layer's values that its terms may take, positions of S not counted.

A budget of 0.5 is half of the d_out x d_in stored values. A sign counts as one bit of such a value.
"""

from __future__ import annotations

import math

OPEN_PATTERNS = ("@row", "@matrix")  # the density is what the budget leaves
# Keeps a product that is a whole number in decimal, but not in binary, from losing one.
_NUDGE = 1e-9
_ROUNDING = 1e-4  # of the budgets that errors name


def sign_share(d_out: int, d_in: int, sign_rank: int, value_bits: int) -> float:
    """Share of the values that a signed term takes: whole bytes of signs per row, and both factors."""
    if sign_rank == 0:
        return 0.0
    signs = d_out * 8 * ((d_in + 7) // 8) / value_bits
    return (signs + sign_rank * (d_out + d_in)) / (d_out * d_in)


def rank_within(name: str, budget: float, terms: float, shape: tuple[int, int]) -> int:
    """Largest rank of a low-rank part beside terms of that share; ValueError naming the layer if they exceed it."""
    d_out, d_in = shape
    rank = math.floor((budget - terms) * d_out * d_in / (d_out + d_in) + _NUDGE)
    if rank < 0:
        raise ValueError(
            f"{name}: its {d_out} x {d_in} weight needs {terms:.4f} of its values for the sparse part and signs alone, "
            f"the budget is {budget}; the nearest feasible budget is {_rounded_up(terms)}"
        )
    return rank


def check_rank_left(name: str, budget: float, terms: float, shape: tuple[int, int]) -> None:
    """ValueError naming the layer if a budget above its other terms is too small for one singular triplet."""
    d_out, d_in = shape
    left, triplet = (budget - terms) * d_out * d_in, d_out + d_in
    if _ROUNDING * d_out * d_in < left < triplet - _NUDGE:
        raise ValueError(
            f"{name}: budget {budget} leaves {left:.0f} values for the low-rank part of its {d_out} x {d_in} weight, "
            f"less than one singular triplet ({triplet}), so its rank vanishes; the nearest feasible budgets are "
            f"{_rounded_up(terms)} without a low-rank part and {_rounded_up(terms + triplet / (d_out * d_in))}"
        )


def closed_pattern(name: str, pattern: str, budget: float, terms: float, shape: tuple[int, int]) -> str:
    """An open pattern with the density that the budget leaves beside terms of that share, rounded down.

    ValueError naming the layer and the nearest feasible budget if not one entry (per row, for "@row") is left.
    """
    d_out, d_in = shape
    length = d_in if pattern == "@row" else d_out * d_in
    kept = math.floor((budget - terms) * length + _NUDGE)
    if kept < 1:
        raise ValueError(
            f"{name}: budget {budget} leaves no entry for the sparse part of its {d_out} x {d_in} weight, the other "
            f"terms take {terms:.4f}; the nearest feasible budget is {_rounded_up(terms + 1 / length)}"
        )
    return f"{kept / length:.12g}{pattern}" if kept < length else "dense"


def _rounded_up(share: float) -> float:
    return math.ceil(share * 1e4 - 1e-6) / 1e4
