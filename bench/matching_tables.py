"""The tables of docs/matching.md, from bench/results/matching-*.json.

    python bench/matching_tables.py [--check]

Text between `<!-- table NAME -->` and `<!-- end -->` is replaced. --check changes nothing and fails if it would.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "matching.md"
_MARKED = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rows(name: str, device: str = "h100") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((ROOT / "bench" / "results" / f"{name}-{device}.json").read_text())["rows"]
    return found


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def gaps(name: str, text: str) -> str:
    """Perplexity and gap to the dense model, and by how much the gap is smaller than the last row's."""
    dense, *others = rows(name)
    last = others[-1][text] - dense[text]
    body = [["dense", f"{dense[text]:.3f}", "", ""]]
    for row in others:
        gap = row[text] - dense[text]
        body.append([row["name"], f"{row[text]:.3f}", f"{gap:.3f}", f"{1 - gap / last:.0%}" if gap < last else ""])
    return markdown(("", "perplexity", "gap to dense", "smaller by"), body)


def methods() -> str:
    by_name = {row["name"]: row for row in rows("matching-methods")}
    body = []
    for name, plain in by_name.items():
        matched = by_name.get(f"{name} matched")
        if matched is not None:
            cells = (plain["held_out"], matched["held_out"])
            body.append([f"`{name}`", *(f"{cell:.2f}" for cell in cells), f"{cells[1] / cells[0]:.3f}"])
    return markdown(("method", "without", "with matching", "ratio"), body)


def study() -> str:
    found = rows("matching-study")
    base = next(row["held_out"] for row in found if row["name"] == "defaults")
    ordered = sorted(found, key=lambda row: row["held_out"])
    body = [[row["name"], f"{row['held_out']:.3f}", f"{row['held_out'] - base:+.3f}"] for row in ordered]
    return markdown(("", "perplexity", "against the defaults"), body)


def earlier_study() -> str:
    """The sweep around earlier defaults; the differences are to those."""
    found = json.loads((ROOT / "bench" / "results" / "matching-study-earlier-h100.json").read_text())[
        "first six blocks"
    ]
    base = next(row["held_out"] for row in found if row["name"] == "default")
    kept = sorted((row for row in found if "matching" in row["changes"]), key=lambda row: row["held_out"])
    body = []
    for row in kept:
        loss = row["held_out"]
        body.append([_settings(row["changes"]["matching"]), f"{loss:.3f}", f"{loss - base:+.3f}"])
    return markdown(("", "perplexity", "against the defaults then"), body)


def _settings(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in changes.items()) or "the defaults then"


def pairs() -> str:
    body = [
        [row["name"], f"{row['held_out']:.3f}", f"{row['matching_seconds'] + row.get('pair_seconds', 0.0):.0f}"]
        for row in rows("matching-pairs", "cpu")
    ]
    return markdown(("", "perplexity", "seconds of matching"), body)


def block(name: str) -> str:
    body = [
        [
            row["name"],
            f"{row['loss']:.4f}",
            f"{row['matching_seconds']:.1f}",
            f"{row['torch_peak_gib']:.1f}",
        ]
        for row in rows(name)
    ]
    return markdown(("", "loss of the block", "seconds of matching", "GiB"), body)


TABLES: dict[str, Callable[[], str]] = {
    "authors-evaluation": lambda: gaps("matching-authors", "evaluation"),
    "authors-held-out": lambda: gaps("matching-authors", "held_out"),
    "whole": lambda: gaps("matching-smollm2", "evaluation"),
    "methods": methods,
    "study": study,
    "study-earlier": earlier_study,
    "pairs": pairs,
    "block": lambda: block("matching-block-8b"),
    "block-32": lambda: block("matching-block-8b-32"),
}


def rendered(page: str) -> str:
    """The page with its tables as the result files have them."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    before = PAGE.read_text(encoding="utf-8")
    after = rendered(before)
    if args.check and after != before:
        sys.exit(f"{PAGE.relative_to(ROOT)} does not show its result files: run python bench/matching_tables.py")
    if not args.check:
        PAGE.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
