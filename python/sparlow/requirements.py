"""Is everything there that sparlow imports? An import that fails half-way names its last step and no way out."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# What is imported, and the package that has it; as in pyproject.toml.
NEEDED = {
    "torch": "torch",
    "transformers": "transformers",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "typer": "typer",
    "rich": "rich",
}


def check_requirements() -> None:
    """ImportError naming the packages that are missing, or the compiled part, and what installs them."""
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        command = f"pip install {' '.join(missing)}"
        raise ImportError(
            f"sparlow needs packages that {sys.executable} lacks: {', '.join(missing)}; {command}", name="sparlow"
        )
    if importlib.util.find_spec("sparlow._core") is None:
        raise ImportError(
            f"{Path(__file__).parent} has no compiled part (_core); in the source tree, build and install it with "
            "scripts/setup or pip install .",
            name="sparlow",
        )
