"""`python -m sparlow.bench`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from sparlow.bench.chart import chart
from sparlow.bench.comparison import Comparison, compare
from sparlow.bench.lines import METRICS, read
from sparlow.bench.programs import NAMES, program
from sparlow.cli.output import error_text, show

_HELP = f"""usage: python -m sparlow.bench {"|".join(NAMES)} [OPTIONS]   (--help lists them)
       python -m sparlow.bench compare BEFORE AFTER [--json] [--fail-above RATIO]
       python -m sparlow.bench plot RESULTS -o CHART.svg [--x tokens] [--y {"|".join(METRICS)}]"""


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 2 for a mistake in what was asked; 1 for a failure, or for a row that --fail-above forbids; 130 for Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    try:
        if words[0] == "compare":
            return _compare(words[1:])
        if words[0] == "plot":
            return _plot(words[1:])
        return subprocess.run([program(words[0]), *words[1:]], check=False).returncode
    except KeyboardInterrupt:
        print("sparlow.bench: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"sparlow.bench: error: {error_text(error)}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2


def _compare(words: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m sparlow.bench compare")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--fail-above", type=float, help="exit with 1 if a case is slower by more, beyond its spread")
    args = parser.parse_args(words)
    found = compare(read(args.before), read(args.after))
    show(_payload(found), args.json, _table(found), *_notes(found))
    slowest = max((change.ratio for change in found.changes if change.beyond_spread), default=0.0)
    return 1 if args.fail_above is not None and slowest > args.fail_above else 0


def _plot(words: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m sparlow.bench plot")
    parser.add_argument("results", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--x", default="tokens", help="a number of the cases, such as tokens, d_in or rank")
    parser.add_argument("--y", default="times_baseline", help=", ".join(METRICS))
    args = parser.parse_args(words)
    args.out.write_text(chart(read(args.results), args.x, args.y), encoding="utf-8")
    return 0


def _payload(found: Comparison) -> dict[str, object]:
    return {
        "changes": [change.to_dict() for change in found.changes],
        "only_before": [row.label for row in found.only_before],
        "only_after": [row.label for row in found.only_after],
        "differing": list(found.differing),
    }


def _table(found: Comparison) -> Table:
    table = Table("case", "before, us", "after, us", "after / before", "")
    for change in found.changes:
        before, after = 1e6 * change.before.median, 1e6 * change.after.median
        mark = change.verdict if change.beyond_spread else ""
        table.add_row(change.before.label, f"{before:.1f}", f"{after:.1f}", f"{change.ratio:.3f}", mark)
    return table


def _notes(found: Comparison) -> list[str]:
    notes = [f"different machines or versions: {fact}" for fact in found.differing]
    for what, rows in (("before", found.only_before), ("after", found.only_after)):
        if rows:
            notes.append(f"{len(rows)} cases only {what}: {', '.join(row.label for row in rows)}")
    return notes


if __name__ == "__main__":
    sys.exit(main())
