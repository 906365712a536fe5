"""Opening the dense model to compress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "spiece.model",
)


def load_dense(source: str | Path) -> tuple[PreTrainedModel, Any]:
    """Model (in the dtype of its checkpoint, on the CPU) and tokenizer (None if the folder has none).

    source: a folder or name for `from_pretrained`, or a .gguf file, which is dequantized to float32.
    Errors: OSError if it cannot be found, ValueError if it is quantized or not a model.
    """
    path = Path(source)
    if path.suffix == ".gguf":
        return _load_gguf(path)
    if path.is_file():
        raise ValueError(f"{path} is a file; give a model folder or a .gguf file")
    model = AutoModelForCausalLM.from_pretrained(str(source), dtype="auto")
    check_dense(model)
    has_tokenizer = not path.is_dir() or any((path / name).exists() for name in _TOKENIZER_FILES)
    return model, AutoTokenizer.from_pretrained(str(source)) if has_tokenizer else None


def check_dense(model: PreTrainedModel) -> None:
    """ValueError if the model holds quantized or compressed weights."""
    config = getattr(model.config, "quantization_config", None)
    if config is not None:
        method = (
            config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", "?")
        )
        raise ValueError(
            f"the model is already compressed (quant_method '{method}'); start from the dense model"
        )


def _load_gguf(path: Path) -> tuple[PreTrainedModel, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    folder = str(path.parent)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=path.name, dtype=torch.float32)
    # The weights are plain float32 now, but transformers marks the model as quantized and refuses to save it.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
