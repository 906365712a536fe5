"""Opening a model, dense or compressed, for `eval` and `generate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from transformers import AutoTokenizer

from sparlow import checkpoint
from sparlow.dense import load_dense, load_whole, open_tokenizer
from sparlow.device import missing_gpu
from sparlow.manifest import read_config

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

Dtype = Literal["float32", "bfloat16", "float16"]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option("--dtype", help="Numbers to compute with (default: float32 on the CPU, bfloat16 on a GPU)."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]


def open_model(source: str, device: str = "cpu", dtype: Dtype | None = None) -> tuple[Any, Any]:
    """Model, in evaluation mode on `device`, and tokenizer of a folder, a hub name or a .gguf file.

    ValueError if there is no tokenizer or no such device; else as `sparlow.load` and transformers.
    """
    check_device(device)
    check_source(source)
    chosen = getattr(torch, dtype or ("float32" if device == "cpu" else "bfloat16"))
    path = Path(source)
    if path.is_dir() and _is_sparlow(path):
        model: Any = checkpoint.load(path, device=device, dtype=chosen)
        tokenizer = open_tokenizer(path)
    elif path.exists():
        model, tokenizer = load_dense(path)
    else:
        model = load_whole(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer is None:
        raise ValueError(f"{source} has no tokenizer; copy the tokenizer files of the model into it")
    return model.to(device=device, dtype=chosen).eval(), tokenizer


def open_compressed(source: str, device: str, dtype: Dtype | None = None) -> Any:
    """A model that `sparlow compress` wrote, in the dtype it was stored in unless told otherwise.

    ValueError if it is another model; else as `sparlow.load`.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no model at {source}")
    if not _is_sparlow(path):
        raise ValueError(f"{source} is not a model that `sparlow compress` wrote")
    return checkpoint.load(path, device=device, dtype=None if dtype is None else getattr(torch, dtype))


def check_source(source: str) -> None:
    """FileNotFoundError for a model that is neither here nor has the form of a hub name."""
    if Path(source).exists() or (_HUB_NAME.fullmatch(source) and not source.endswith(".gguf")):
        return
    raise FileNotFoundError(f"no model at {source}: it is no folder or .gguf file here, and no hub name either")


def check_device(device: str) -> None:
    """ValueError for a device other than a CPU and a GPU, or a GPU that this machine does not have."""
    if re.fullmatch(r"cpu|cuda(:\d+)?", device) is None:
        raise ValueError(f"unknown device {device!r}: use cpu, cuda or cuda:N")
    if (reason := missing_gpu(device)) is not None:
        raise ValueError(reason)


def _is_sparlow(path: Path) -> bool:
    entry = read_config(path).get("quantization_config")
    return isinstance(entry, dict) and entry.get("quant_method") == "sparlow"
