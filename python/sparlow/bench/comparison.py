"""Two result files, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparlow.bench.lines import Results, Row


@dataclass(frozen=True)
class Change:
    """The same case before and after. ratio: time after over time before, below 1 is faster."""

    before: Row
    after: Row

    @property
    def ratio(self) -> float:
        return self.after.median / self.before.median

    @property
    def beyond_spread(self) -> bool:
        """Whether the two ranges from first to third quartile have nothing in common."""
        return self.after.q1 > self.before.q3 or self.after.q3 < self.before.q1

    @property
    def verdict(self) -> str:
        if not self.beyond_spread:
            return "within spread"
        return "faster" if self.ratio < 1 else "slower"

    def to_dict(self) -> dict[str, Any]:
        return {
            "bench": self.before.bench,
            "case": dict(self.before.case),
            "before_us": 1e6 * self.before.median,
            "after_us": 1e6 * self.after.median,
            "ratio": self.ratio,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Comparison:
    """changes: cases of both files; only_before, only_after: the others; differing: facts of the machines that do."""

    changes: tuple[Change, ...]
    only_before: tuple[Row, ...]
    only_after: tuple[Row, ...]
    differing: tuple[str, ...]


def compare(before: Results, after: Results) -> Comparison:
    """ValueError if the files have no case in common."""
    old, new = ({row.key: row for row in results.rows} for results in (before, after))
    changes = tuple(Change(row, new[key]) for key, row in old.items() if key in new)
    if not changes:
        raise ValueError(f"{before.path} and {after.path} have no case in common")
    facts = sorted(before.machine.keys() | after.machine.keys())
    differing = (
        f"{fact}: {before.machine.get(fact)} before, {after.machine.get(fact)} after"
        for fact in facts
        if before.machine.get(fact) != after.machine.get(fact)
    )
    return Comparison(
        changes,
        tuple(row for key, row in old.items() if key not in new),
        tuple(row for key, row in new.items() if key not in old),
        tuple(differing),
    )
