"""Opening the dense model to compress."""

from __future__ import annotations

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from .manifest import read_config

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "spiece.model",
)


def load_dense(source: str | os.PathLike[str]) -> tuple[PreTrainedModel, Any]:
    """Model (in the dtype of its checkpoint, on the CPU) and tokenizer (None if the folder has none).

    source: a folder or name for `from_pretrained`, or a .gguf file, which is dequantized to float32.
    Errors: OSError if it cannot be found, ValueError if it is quantized, damaged, incomplete or not a model.
    """
    path = Path(source)
    if path.suffix == ".gguf":
        return _load_gguf(path)
    _check_folder(path)
    model = load_whole(str(source), dtype="auto")
    check_dense(model)
    return model, open_tokenizer(source)


def load_whole(source: str, **options: Any) -> PreTrainedModel:
    """`from_pretrained`, with a ValueError for damaged files and for missing tensors: it would make up random ones."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
    except (SafetensorError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{source}: a file of weights is truncated or damaged ({error}); copy or download it again"
        ) from error
    model: PreTrainedModel = loaded[0]
    if missing := sorted(loaded[1]["missing_keys"]):
        tensors = "1 tensor" if len(missing) == 1 else f"{len(missing)} tensors"
        raise ValueError(
            f"{source} lacks {tensors} of its model: {', '.join(missing[:3])}{', …' if missing[3:] else ''}; a file is "
            "missing or incomplete, or config.json is of another model"
        )
    return model


def open_tokenizer(source: str | os.PathLike[str]) -> Any:
    """The tokenizer of a folder or of a name for `from_pretrained`; None if the folder has none."""
    path = Path(source)
    if path.is_dir() and not any((path / name).exists() for name in _TOKENIZER_FILES):
        return None
    return AutoTokenizer.from_pretrained(str(source))


def load_skeleton(source: str | os.PathLike[str]) -> PreTrainedModel:
    """The model of `load_dense` on the meta device: its modules and shapes, no weights."""
    path = Path(source)
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(source)}
    if path.suffix == ".gguf":
        _check_exists(path)
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    else:
        _check_folder(path)
    config = AutoConfig.from_pretrained(**where)
    if path.suffix != ".gguf":
        check_dense_config(config)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return model


def check_dense(model: PreTrainedModel) -> None:
    """ValueError if the model holds quantized or compressed weights."""
    check_dense_config(model.config)


def check_dense_config(model_config: PreTrainedConfig) -> None:
    """ValueError if the config is that of a quantized or compressed model."""
    config = getattr(model_config, "quantization_config", None)
    if config is not None:
        method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", "?")
        raise ValueError(f"the model is already compressed (quant_method '{method}'); start from the dense model")


def _load_gguf(path: Path) -> tuple[PreTrainedModel, Any]:
    _check_exists(path)
    folder = str(path.parent)
    model = load_whole(folder, gguf_file=path.name, dtype=torch.float32)
    # The weights are plain float32 now, but transformers marks the model as quantized and refuses to save it.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=path.name)


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")


def _check_folder(path: Path) -> None:
    if path.is_file():
        raise ValueError(f"{path} is a file; give a model folder or a .gguf file")
    if path.is_dir():
        read_config(path)
