"""What every bench writes beside its figures: hardware, versions, command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import sparlow
from sparlow import _core


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def environment(device: str) -> dict[str, Any]:
    """Enough to judge whether two result files may be compared."""
    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": {"sparlow": _core.num_threads(), "torch": torch.get_num_threads()},
        "blas_environment": {k: v for k, v in os.environ.items() if k.startswith(("OPENBLAS_", "OMP_", "MKL_"))},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sparlow": sparlow.__version__,
    }
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write(path: Path, device: str, rows: list[dict[str, Any]], **more: Any) -> None:
    command = "python " + shlex.join(
        [Path(sys.argv[0]).as_posix(), *(Path(a).name if "/" in a else a for a in sys.argv[1:])]
    )
    content = {"command": command, "environment": environment(device), **more, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
