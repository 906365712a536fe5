"""Several result files of one bench, run in parallel or one after another, as one file.

    python bench/join_results.py OUT IN [IN ...] [--what TEXT] [--curves]

Rows come in the order of the files; of rows with one name the first stays. Without --curves the record of a matched
block keeps its held-out losses before and after only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

_SAME = ("gpu", "torch", "sparlow")


def slim(row: dict[str, Any]) -> dict[str, Any]:
    """The row without the curves of its blocks."""
    blocks = row.get("blocks")
    if not isinstance(blocks, list) or not blocks or "held_out_before" not in blocks[0]:
        return row
    short = [[round(b["held_out_before"], 6), round(b["held_out_after"], 6), b["best_epoch"]] for b in blocks]
    return {**row, "blocks": short}


def join(files: list[dict[str, Any]], *, curves: bool) -> dict[str, Any]:
    """One content; SystemExit if the files come from different devices or versions."""
    first = files[0]
    rows: dict[str, dict[str, Any]] = {}
    for content in files:
        for key in _SAME:
            if content["environment"].get(key) != first["environment"].get(key):
                sys.exit(f"{key} differs: {content['environment'].get(key)} and {first['environment'].get(key)}")
        for row in content["rows"]:
            rows.setdefault(row["name"], row if curves else slim(row))
    rest = {key: value for key, value in first.items() if key not in ("command", "rows")}
    return {"commands": [content["command"] for content in files], **rest, "rows": list(rows.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--what", help="what the rows are, and under which conditions they ran")
    parser.add_argument("--curves", action="store_true")
    args = parser.parse_args()
    content = join([json.loads(path.read_text()) for path in args.files], curves=args.curves)
    what = {} if args.what is None else {"what": args.what}
    args.out.write_text(json.dumps({**what, **content}, indent=1) + "\n")


if __name__ == "__main__":
    main()
