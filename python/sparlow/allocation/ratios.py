"""Shares of a budget that follow a statistic of each layer: OWL's rule, for densities and for ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparlow.allocation.slots import Slot
from sparlow.recipe_rules import LayerPlan

_ROUNDS = 100  # of bisection


def shares_by_statistic(slots: Sequence[Slot], statistics: Sequence[float], total: float, spread: float) -> list[float]:
    """Values of each slot: total / size on average, up to `spread` more where the statistic is large, less where small.

    As in OWL (Yin et al., arXiv:2310.05175) the range is 2 spread; a slot that cannot take or use its share leaves it
    to the others.
    """
    low, high = min(statistics), max(statistics)
    width = high - low
    raised = [2 * spread * (s - low) / width if width > 0 else 0.0 for s in statistics]
    return shifted(slots, raised, total)


def shifted(slots: Sequence[Slot], shares: Sequence[float], total: float) -> list[float]:
    """Values of each slot: its share of its size, all shares moved by one amount so that they add up to `total`."""
    offset = _offset(slots, shares, total)
    return [_clipped(slot, share + offset) for slot, share in zip(slots, shares, strict=True)]


def _clipped(slot: Slot, share: float) -> float:
    return min(max(share * slot.size, slot.least), slot.most)


def _offset(slots: Sequence[Slot], shares: Sequence[float], total: float) -> float:
    low, high = -2.0, max(slot.most / slot.size for slot in slots) + 1
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if sum(_clipped(slot, share + middle) for slot, share in zip(slots, shares, strict=True)) <= total:
            low = middle
        else:
            high = middle
    return low


def split(slot: Slot, values: float, low_rank: float) -> LayerPlan:
    """The plan of a slot with so many values; where the density is open, a share of them goes to the low-rank part.

    ValueError if that share is too small for a single rank.
    """
    spare = values - slot.fixed
    if not slot.open:
        rank = math.floor((values - slot.least) / slot.triplet + 1e-9)
        return slot.decided(0, min(rank, min(slot.shape)) if slot.low_rank else 0)
    if not slot.low_rank or low_rank == 0:
        return slot.decided(spare, 0)
    rank = min(math.floor(low_rank * spare / slot.triplet + 1e-9), min(slot.shape))
    if rank == 0:
        raise ValueError(
            f"{slot.name}: allocation.low_rank {low_rank} of its {values:.0f} values is less than one singular triplet "
            f"({slot.triplet} values), so its rank vanishes; raise low_rank to at least {slot.triplet / spare:.4f}, or "
            "set it to 0"
        )
    return slot.decided(spare - rank * slot.triplet, rank)
