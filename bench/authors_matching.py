"""The authors' released code (mazumder-lab/3BASiL) as a baseline: their whole loop, and their matching of one block."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
import transformers
from torch import Tensor, nn

from sparlow.layers import SparseLowRankLinear
from sparlow.models import replace_module

# The defaults of their command line.
EPOCHS, CHUNK, LEARNING_RATE, LORA_ALPHA = 20, 8, 2e-5, 16


class Adapted(nn.Module):
    """A linear layer with a low-rank part beside it, with the names that their code reads."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        d_out, d_in = weight.shape
        self.base_layer = nn.Linear(d_in, d_out, bias=False, device=weight.device, dtype=weight.dtype)
        self.base_layer.weight.data = weight.detach().clone()
        self.lora_A = nn.ModuleDict({"default": nn.Linear(d_in, rank, bias=False).to(weight)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, d_out, bias=False).to(weight)})
        nn.init.kaiming_uniform_(self.lora_A["default"].weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B["default"].weight)
        self.scaling, self.active_adapter = {"default": LORA_ALPHA / rank}, ["default"]

    @property
    def weight(self) -> nn.Parameter:
        return self.base_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        low_rank = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + low_rank * self.scaling["default"]

    def factors(self) -> tuple[Tensor, Tensor]:
        """u [d_out, r], v [r, d_in], the scaling in u."""
        return (
            self.lora_B["default"].weight.detach() * self.scaling["default"],
            self.lora_A["default"].weight.detach(),
        )

    @classmethod
    def of(cls, layer: SparseLowRankLinear) -> Adapted:
        """The float32 copy of a compressed layer."""
        adapted = cls(layer.sparse_dense().detach().float(), layer.rank)
        u, v = layer.low_rank_u.detach().float(), layer.low_rank_v.detach().float()
        adapted.lora_B["default"].weight.data = u / adapted.scaling["default"]
        adapted.lora_A["default"].weight.data = v.clone()
        return adapted


def load(checkout: Path) -> Any:
    """Their module `pipeline`. Of peft it only asks which layers are adapted: `Adapted` stands in for those."""
    names = ("peft", "peft.tuners", "peft.tuners.lora")
    before = {name: sys.modules.get(name) for name in names}
    peft, tuners, lora = (ModuleType(name) for name in names)
    peft.PeftModel, peft.tuners, tuners.lora, lora.LoraLayer = SimpleNamespace, tuners, lora, Adapted  # type: ignore[attr-defined]
    sys.modules.update(zip(names, (peft, tuners, lora), strict=True))
    sys.path.insert(0, str(checkout))
    try:
        return importlib.import_module("pipeline")
    finally:
        sys.path.remove(str(checkout))
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class Losses(logging.Handler):
    """The loss of every epoch that their matching logs."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "epoch_loss=" in message:
            self.values.append(float(message.split("epoch_loss=")[1]))


@contextmanager
def listening(pipeline: Any) -> Iterator[list[float]]:
    """Collects their losses; their other messages are dropped."""
    handler = Losses()
    pipeline.logger.addHandler(handler)
    pipeline.logger.setLevel(logging.INFO)
    pipeline.logger.propagate = False
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield handler.values
    finally:
        pipeline.logger.removeHandler(handler)


def run(pipeline: Any, path: str, windows: Tensor, *, blocks: int | None, rank: int, device: str) -> tuple[Any, dict]:
    """Their 3BASiL at 2:4 with matching, float32 as published, on the first `blocks` blocks of the model in `path`.

    windows: token ids [windows, tokens]. Returns the model with its layers stored as ours are, and their losses.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model.seqlen = windows.shape[1]
    whole = model.model.layers
    model.model.layers = whole[:blocks]
    for name, module in list(model.model.layers.named_modules()):
        if isinstance(module, nn.Linear):
            if module.bias is not None:
                raise SystemExit(f"{name} has a bias, which this baseline does not carry")
            replace_module(model.model.layers, name, Adapted(module.weight, rank))
    row: dict[str, Any] = {"name": "the authors' code", "blocks": []}
    with listening(pipeline) as losses, _noted(pipeline, losses, row), _no_tidying():
        pipeline.llm_compressor(
            model, [(window[None],) for window in windows], torch.device(device), nsamples=len(windows),
            prunen=2, prunem=4, percdamp=0.005, hess_percdamp=0.005, hess_diag=True, model_type="llama",
        )  # fmt: skip
    row["linear_bytes"] = _store(model.model.layers)
    model.model.layers = whole
    return model.cpu(), row


def match(pipeline: Any, block: nn.Module, inputs: Tensor, targets: Tensor, embeddings: Any, epochs: int) -> dict:
    """Their matching alone: trains the `Adapted` layers and norms of `block` in place."""
    settings = SimpleNamespace(chunk_size=CHUNK, n_iters=epochs, lr_init=LEARNING_RATE, use_squared=True)
    _wait(inputs.device)
    started = time.perf_counter()
    with listening(pipeline) as losses:
        pipeline.transformer_matching(
            block, inputs, targets, tm_args=settings, arg=embeddings, model_type="llama", device=inputs.device
        )
    _wait(inputs.device)
    return {"matching_seconds": time.perf_counter() - started, "epoch_losses": losses}


@contextmanager
def _noted(pipeline: Any, losses: list[float], row: dict[str, Any]) -> Iterator[None]:
    """Puts the losses of every block they match into `row`."""
    original: Callable[..., None] = pipeline.transformer_matching

    def noted(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        row["blocks"].append({"epoch_losses": losses.copy()})
        losses.clear()
        print(f"their block {len(row['blocks'])} matched", file=sys.stderr, flush=True)

    pipeline.transformer_matching = noted
    try:
        yield
    finally:
        pipeline.transformer_matching = original


@contextmanager
def _no_tidying() -> Iterator[None]:
    """Their loop collects garbage and empties torch's cache after every window, which costs time and changes nothing.

    This baseline is for its perplexity; no time of it is reported.
    """
    with mock.patch("gc.collect"), mock.patch("torch.cuda.empty_cache"):
        yield


def _store(blocks: nn.Module) -> int:
    """Replace their layers by ours, which checks the pattern; the bytes they take."""
    count = 0
    for name, module in list(blocks.named_modules()):
        if isinstance(module, Adapted):
            s = module.base_layer.weight.detach().cpu()
            u, v = (factor.cpu() for factor in module.factors())
            layer = SparseLowRankLinear.from_decomposition(s, u, v, None, "2:4", torch.bfloat16)
            replace_module(blocks, name, layer)
            count += layer.stored_bytes
    return count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
