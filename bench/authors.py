"""The authors' released code (mazumder-lab/3BASiL) as a baseline: one layer through their LLM_Compressor."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

# Our name and options -> the method of theirs that minimises the same thing.
COUNTERPARTS = {
    "wanda": "wanda",
    "sparsegpt": "sparsegpt",
    "alps": "alps",
    "oats": "oats",
    "eora-sparsegpt": "eora_sparsegpt",
    "eora-alps": "eora_alps",
    "hassle_free-sparsegpt": "hassle_free_sparsegpt",
    "hassle_free-alps": "hassle_free_alps",
}
PURE = ("wanda", "sparsegpt", "alps")
ITERATED = ("oats", "hassle_free_sparsegpt", "hassle_free_alps")


def load(checkout: Path) -> Any:
    """Their module `compress`; silent, and without the waits for a GPU on a machine that has none."""
    sys.path.insert(0, str(checkout))
    import compress

    compress.logger.info = compress.logger.debug = lambda *_: None
    if not torch.cuda.is_available():
        compress.torch.cuda.synchronize = lambda *_: None
    return compress


def _parameter(x: Tensor) -> SimpleNamespace:
    return SimpleNamespace(default=SimpleNamespace(weight=x))


def _layer(w: Tensor, rank: int) -> SimpleNamespace:
    """What their code expects of a layer wrapped for low-rank adaptation, scaling 1."""
    weight = w.clone()
    a = torch.empty(rank, w.shape[1], device=w.device)
    if rank:
        torch.nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    return SimpleNamespace(
        weight=weight,
        base_layer=SimpleNamespace(weight=weight),
        lora_A=_parameter(a),
        lora_B=_parameter(torch.zeros(w.shape[0], rank, device=w.device)),
        scaling={0: 1.0},
        active_adapter=[0],
    )


class Baseline:
    """One layer prepared for their solvers: w [d_out, d_in], gram = XᵀX of `tokens` tokens, undamped."""

    def __init__(self, module: Any, w: Tensor, gram: Tensor, tokens: int, rank: int) -> None:
        self._module, self._w, self._rank = module, w, rank
        self._h = gram * (2.0 / tokens)

    def run(self, method: str, pattern: str, damping: tuple[float, float], iterations: int | None = None) -> Tensor:
        """S + L [d_out, d_in] of the counterpart of `method`; pattern "n:m" or "0.5@...": their own scope."""
        theirs = COUNTERPARTS[method]
        layer = _layer(self._w, 0 if theirs in PURE else self._rank)
        compressor = self._module.LLM_Compressor(layer, method)
        compressor.H = self._h.clone()
        compressor.scaler_row = torch.diag(self._h).clone()
        arguments: dict[str, Any] = {}
        if ":" in pattern:
            arguments["prunen"], arguments["prunem"] = map(int, pattern.split(":"))
        else:
            arguments["sparsity"] = 1 - float(pattern.split("@")[0])
        if theirs == "wanda" and "prunen" in arguments:  # counts what is pruned
            arguments["prunen"] = arguments["prunem"] - arguments["prunen"]
        if theirs not in ("wanda", "oats"):
            arguments |= {"hess_diag": True, "hess_percdamp": damping[0], "percdamp": damping[1]}
        if theirs in ITERATED and iterations is not None:
            arguments["n_iters"] = iterations
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            getattr(compressor, theirs)(**arguments)
        return layer.base_layer.weight + layer.lora_B.default.weight @ layer.lora_A.default.weight
