"""Candidates of a global selection: singular triplets and sparse entries of every layer, in groups.

A group is kept or dropped as a whole.

Where the density is open, both come from robust PCA of the weight (Zhou et al., arXiv:2505.03801); where the pattern
fixes it, the sparse part is that of the recipe's method and only the triplets of its low-rank part are candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparlow.allocation.slots import Slot
from sparlow.principal import robust_pca
from sparlow.recipe_rules import LayerPlan

_RPCA_ITERATIONS = 10  # the paper's perplexity does not fall any further with more


@dataclass(frozen=True)
class Candidates:
    """The groups of one layer: first those of triplets, then those of entries, each from the largest score down.

    u, v: triplets; s: sparse part; entry_group uint8 [d_out, d_in]: group of every entry, 0 for those always kept.
    triplets: how many each triplet group holds; entries: the same of entry groups. scores: of every group, loss that it
    saves per value it takes, as a share of tr(W G Wᵀ), times what such a share weighs.
    """

    slot: Slot
    u: Tensor
    v: Tensor
    s: Tensor
    entry_group: Tensor | None
    triplets: list[int]
    entries: list[int]
    scores: Tensor

    @property
    def costs(self) -> Tensor:
        """Values that each group takes [groups]."""
        return torch.tensor([*(n * self.slot.triplet for n in self.triplets), *self.entries], dtype=torch.float64)

    @property
    def base(self) -> float:
        """Values that the layer takes without any group."""
        return self.slot.fixed if self.slot.open else self.slot.least

    def dense(self, kept: Tensor) -> Tensor:
        """The weight [d_out, d_in] of the groups where `kept` (bool [groups], on the CPU) is set."""
        low, high = kept[: len(self.triplets)], kept[len(self.triplets) :]
        columns = _repeated(low, self.triplets).to(self.u.device)
        s = self.s
        if self.entry_group is not None:
            table = torch.cat([torch.ones(1), high.float()]).to(s.device)
            s = s * table[self.entry_group.int()]
        return s + (self.u * columns) @ self.v

    def plan(self, kept: Tensor) -> LayerPlan:
        """What was kept, as a rank and a density."""
        flags = kept.tolist()
        rank = sum(n for n, keep in zip(self.triplets, flags, strict=False) if keep)
        entries = sum(n for n, keep in zip(self.entries, flags[len(self.triplets) :], strict=True) if keep)
        return self.slot.decided(entries, rank)


def _sizes(count: int, bins: int) -> list[int]:
    """`count` in at most `bins` groups of nearly equal size."""
    bins = min(bins, count)
    return [count * (k + 1) // bins - count * k // bins for k in range(bins)]


def _repeated(x: Tensor, counts: list[int]) -> Tensor:
    return torch.repeat_interleave(x, torch.tensor(counts, dtype=torch.int64))


def split_by_rpca(slot: Slot, w: Tensor, gram: Tensor, bins: int) -> Candidates:
    """Candidates of a layer whose density is open."""
    parts = robust_pca(w, iterations=_RPCA_ITERATIONS)
    energy = _energy(w, gram)
    saved = parts.u.square().sum(0) * ((parts.v @ gram) * parts.v).sum(1)
    order = saved.argsort(descending=True)
    triplets = _sizes(len(order), bins)
    found = [x.sum() / (n * slot.triplet) for x, n in zip(torch.split(saved[order], triplets), triplets, strict=True)]
    value = parts.s.square() * gram.diagonal()
    flat = value.flatten().argsort(descending=True)[: int(parts.s.count_nonzero())]
    entries = _sizes(len(flat), min(bins, 255))
    labels = _repeated(torch.arange(1, len(entries) + 1), entries).to(w.device)
    group = torch.zeros(w.numel(), dtype=torch.uint8, device=w.device)
    group[flat] = labels.to(torch.uint8)
    found += [x.mean() for x in torch.split(value.flatten()[flat], entries)]
    scores = torch.stack(found).double().cpu() / energy if found else torch.empty(0, dtype=torch.float64)
    u, v = parts.u[:, order], parts.v[order]
    return Candidates(slot, u, v, parts.s, group.reshape(w.shape), triplets, entries, scores)


def split_by_method(slot: Slot, s: Tensor, u: Tensor, v: Tensor, w: Tensor, gram: Tensor, bins: int) -> Candidates:
    """Candidates of a layer whose pattern is given: s, u, v as its method returns them, v with G-orthogonal rows."""
    saved = u.square().sum(0) * ((v @ gram) * v).sum(1)
    order = saved.argsort(descending=True)
    triplets = _sizes(len(order), bins)
    found = [x.sum() / (n * slot.triplet) for x, n in zip(torch.split(saved[order], triplets), triplets, strict=True)]
    scores = torch.stack(found).double().cpu() / _energy(w, gram) if found else torch.empty(0, dtype=torch.float64)
    return Candidates(slot, u[:, order], v[order], s, None, triplets, [], scores)


def _energy(w: Tensor, gram: Tensor) -> float:
    return max(float(((w @ gram) * w).sum(dtype=torch.float64)), 1e-300)


def keep_best(order: Sequence[int], costs: Tensor, spare: float) -> Tensor:
    """bool [groups]: those that still fit, taken in `order`."""
    kept = torch.zeros(len(costs), dtype=torch.bool)
    for k in order:
        if float(costs[k]) <= spare:
            kept[k], spare = True, spare - float(costs[k])
    return kept
