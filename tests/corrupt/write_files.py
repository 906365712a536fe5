"""Writes the folder of hostile files and `expected.tsv`, the words of each file's error, for the reader in C++."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

from shard_faults import FAULTS, join

FOLDER = Path(__file__).parent / "safetensors"


def good() -> bytes:
    """Two tensors, the second of the narrower type."""
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "I64", "shape": [2, 3], "data_offsets": [0, 48]},
        "b": {"dtype": "BF16", "shape": [5], "data_offsets": [48, 58]},
    }
    return join(header, struct.pack("<6q5H", *range(6), *[0x3F80] * 5))


def main() -> int:
    """Write every fault as a file of its own."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER.parent / "good.safetensors").write_bytes(good())
    lines = []
    for name, (damage, words) in FAULTS.items():
        file = re.sub(r"\W+", "_", name) + ".safetensors"
        (FOLDER / file).write_bytes(damage(good()))
        lines.append(f"{file}\t{words}\n")
    (FOLDER / "expected.tsv").write_text("".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
