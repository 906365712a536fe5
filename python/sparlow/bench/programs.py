"""The compiled benchmarks that were installed with the package."""

from __future__ import annotations

from pathlib import Path

import sparlow

NAMES = ("forward", "project", "factor", "solvers")


def program(name: str) -> Path:
    """The program behind `name`. ValueError for an unknown name, RuntimeError where it was not installed."""
    if name not in NAMES:
        raise ValueError(f"unknown benchmark '{name}'; there are {', '.join(NAMES)}, and compare and plot for results")
    path = Path(sparlow.__file__).parent / "bin" / f"bench_{name}"
    if not path.exists():
        raise RuntimeError(
            f"this sparlow was installed without bench_{name}; install it with SPARLOW_BENCH=ON, or build it with "
            "cmake -DSPARLOW_BENCH=ON"
        )
    return path
