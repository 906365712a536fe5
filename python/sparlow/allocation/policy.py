"""Stage two of global rank and sparsity optimisation: keep-probabilities of all groups by policy gradient.

Zhou et al., arXiv:2505.03801: sample a mask, take the loss of the model under it, move the probabilities along the
score function times the loss above a baseline, project them onto the budget. No gradient of the model is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

_ROUNDS = 60  # of bisection
_SMALL = 1e-6

Loss = Callable[[Tensor], float]


@dataclass
class Policy:
    """Bernoulli keep-probabilities [groups] f64 under sum(costs * probabilities) <= budget.

    window: losses that the moving average remembers; residual: losses come as differences from those of a reference.
    """

    probabilities: Tensor
    costs: Tensor
    budget: float
    step: float
    floor: float
    window: int
    losses: deque[float] = field(init=False)

    def __post_init__(self) -> None:
        self.losses = deque(maxlen=self.window)
        self.probabilities = project(self.probabilities, self.costs, self.budget, self.floor)

    def sample(self, random: torch.Generator) -> Tensor:
        """A mask, bool [groups]."""
        return torch.rand(len(self.costs), generator=random, dtype=torch.float64) < self.probabilities

    def learn(self, mask: Tensor, loss: float) -> None:
        """One step; the first loss only sets the baseline."""
        if self.losses:
            baseline = sum(self.losses) / len(self.losses)
            p = self.probabilities
            score = (mask.double() - p) / (p * (1 - p) + _SMALL)
            moved = p - self.step * (loss - baseline) * score
            self.probabilities = project(moved, self.costs, self.budget, self.floor)
        self.losses.append(loss)


def start(scores: Tensor, costs: Tensor, budget: float, floor: float) -> Tensor:
    """Probabilities in proportion to the scores, clipped to [floor, 1 - floor], whose expected cost is the budget."""
    low, high = 0.0, 1.0 / max(float(scores[scores > 0].min()), 1e-300) if bool((scores > 0).any()) else 1.0
    for _ in range(2 * _ROUNDS):
        middle = (low + high) / 2
        if float((costs * (scores * middle).clamp(floor, 1 - floor)).sum()) <= budget:
            low = middle
        else:
            high = middle
    return (scores * low).clamp(floor, 1 - floor)


def project(probabilities: Tensor, costs: Tensor, budget: float, floor: float) -> Tensor:
    """clip(p - t costs, floor, 1 - floor) with the smallest t >= 0 whose expected cost is within the budget.

    If not even the floor is, the floor: the final selection is within the budget in any case.
    """
    unit = costs / costs.mean()
    low, high = 0.0, 0.0

    def clipped(t: float) -> Tensor:
        return (probabilities - t * unit).clamp(floor, 1 - floor)

    if float((costs * clipped(0.0)).sum()) <= budget:
        return clipped(0.0)
    high = float((probabilities / unit).max()) + 1
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if float((costs * clipped(middle)).sum()) <= budget:
            high = middle
        else:
            low = middle
    return clipped(high)
