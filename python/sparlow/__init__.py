"""One-shot compression of language models into sparse + low-rank linear layers."""

import torch  # noqa: F401  (before the extension: one copy of each shared library per process)

from sparlow._core import __version__
from sparlow.solve import (
    Damping,
    Decomposition,
    Gram,
    MethodInfo,
    Report,
    decompose,
    method_info,
    methods,
    parse_pattern,
    relative_loss,
)

__all__ = [
    "Damping",
    "Decomposition",
    "Gram",
    "MethodInfo",
    "Report",
    "__version__",
    "decompose",
    "method_info",
    "methods",
    "parse_pattern",
    "relative_loss",
]
