"""One-shot compression of language models into sparse + low-rank linear layers."""

# ruff: noqa: E402  (what is missing is told before anything that needs it is imported)

from sparlow.requirements import check_requirements

check_requirements()

import torch  # noqa: F401  (before the extension: one copy of each shared library per process)

from sparlow import hf  # noqa: F401  (registers the checkpoint format with transformers)
from sparlow._core import __version__
from sparlow.api import Compressed, compress, plan
from sparlow.checkpoint import load, save
from sparlow.evaluate import generate, perplexity
from sparlow.inspect import inspect_checkpoint
from sparlow.layers import SparseLowRankLinear
from sparlow.principal import RobustPca, robust_pca
from sparlow.recipe import Recipe
from sparlow.solve import (
    Damping,
    Decomposition,
    Gram,
    MethodInfo,
    Report,
    Signed,
    decompose,
    method_info,
    methods,
    parse_pattern,
    relative_loss,
)
from sparlow.stacks import stack, unstack

__all__ = [
    "Compressed",
    "Damping",
    "Decomposition",
    "Gram",
    "MethodInfo",
    "Recipe",
    "Report",
    "RobustPca",
    "Signed",
    "SparseLowRankLinear",
    "__version__",
    "compress",
    "decompose",
    "generate",
    "inspect_checkpoint",
    "load",
    "method_info",
    "methods",
    "parse_pattern",
    "perplexity",
    "plan",
    "relative_loss",
    "robust_pca",
    "save",
    "stack",
    "unstack",
]
