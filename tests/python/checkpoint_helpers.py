"""Tiny random models, compressed without a solver: S keeps the largest values, U and V are random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from sparlow import hf
from sparlow.layers import SparseLowRankLinear

VOCABULARY = 64
RECIPE = {"method": "magnitude", "pattern": "2:4", "rank": 4, "options": {}, "seed": 0}

_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tiny_model(kind: str = "llama", dtype: torch.dtype = torch.bfloat16, **extra: Any) -> PreTrainedModel:
    """A random causal language model: llama, mistral, qwen2 (biased projections), gpt2 (Conv1D), opt or gemma."""
    families: dict[str, tuple[str, dict[str, Any]]] = {
        "llama": ("Llama", _SHARED),
        "mistral": ("Mistral", _SHARED | {"sliding_window": None}),
        "qwen2": ("Qwen2", _SHARED),
        "gemma": ("Gemma", _SHARED | {"head_dim": 8}),
        "opt": ("OPT", _SHARED | {"ffn_dim": 56, "word_embed_proj_dim": 32}),
        "gpt2": (
            "GPT2",
            {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        ),
    }
    name, fields = families[kind]
    config = getattr(transformers, f"{name}Config")(**(fields | extra))
    torch.manual_seed(0)
    head = "LMHeadModel" if kind == "gpt2" else "ForCausalLM"
    # Not .to(dtype): that would also round the rotary frequencies, which a loaded model has in float32.
    model: PreTrainedModel = getattr(transformers, f"{name}{head}")._from_config(config, dtype=dtype).eval()
    for module in model.modules():
        if isinstance(getattr(module, "bias", None), torch.nn.Parameter):
            torch.nn.init.normal_(module.bias, std=0.1)
    return model


def keep_two_of_four(w: Tensor) -> Tensor:
    """w with the two entries of smallest magnitude of every group of four set to zero."""
    groups = w.reshape(w.shape[0], -1, 4)
    keep = groups.abs().argsort(dim=-1, descending=True, stable=True)[..., :2]
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, keep, True)
    return (groups * mask).reshape(w.shape)


def keep_half_of_rows(w: Tensor) -> Tensor:
    """w with the smaller half of every row set to zero."""
    keep = w.abs().argsort(dim=-1, descending=True, stable=True)[:, : w.shape[1] // 2]
    return w * torch.zeros_like(w).scatter_(-1, keep, 1.0)


def decoder_linears(model: PreTrainedModel) -> list[str]:
    """Names of the linear modules other than the output head."""
    head = model.get_output_embeddings()
    kinds = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not head]


def compress_randomly(
    model: PreTrainedModel, pattern: str = "2:4", rank: int = 4, dtype: torch.dtype = torch.bfloat16
) -> PreTrainedModel:
    """Replace every decoder linear in place. Ranks vary by layer; rank 0 stays 0."""
    sparsify = {"2:4": keep_two_of_four, "0.5@row": keep_half_of_rows, "dense": lambda w: w}[pattern]
    for index, name in enumerate(decoder_linears(model)):
        module = model.get_submodule(name)
        w = module.weight.detach().float()
        w = w.T.contiguous() if isinstance(module, transformers.pytorch_utils.Conv1D) else w
        r = rank + index % 3 if rank else 0
        u, v = 0.1 * torch.randn(w.shape[0], r), 0.1 * torch.randn(r, w.shape[1])
        bias = None if module.bias is None else module.bias.detach()
        model.set_submodule(name, SparseLowRankLinear.from_decomposition(sparsify(w), u, v, bias, pattern, dtype))
    hf.attach(model, RECIPE)
    return model.requires_grad_(False)


def metrics_of(model: PreTrainedModel) -> list[dict[str, Any]]:
    """Records as the traversal writes them, with made-up figures."""
    return [
        {"name": name, "relative_loss": 0.01 * i, "density": 0.5, "iterations": 7, "damping_used": 1.0}
        for i, name in enumerate(hf.compressed_modules(model))
    ]


def logits(model: PreTrainedModel) -> Tensor:
    """Logits of a fixed batch."""
    tokens = torch.arange(3, 3 + 2 * 11).reshape(2, 11)
    with torch.no_grad():
        output: Tensor = model(tokens).logits
    return output


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Content of every file of a folder by relative name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def shard_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
