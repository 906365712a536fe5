"""Tiny random models of many decoder families, shared by the tests."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_GEMMA = {**COMMON, "head_dim": 8, "sliding_window": 6, "num_hidden_layers": 4}
_LLAMA_GROUPS = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
_GPT2_GROUPS = [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]]
_OPT_GROUPS = [["k_proj", "v_proj", "q_proj"], ["out_proj"], ["fc1"], ["fc2"]]
_SLIDING = ["sliding_attention", "full_attention"] * 2

# Per family: its config, and the linears of a block grouped by the input they read.
FAMILIES: dict[str, tuple[Any, list[list[str]]]] = {
    "llama": (hf.LlamaConfig(**COMMON), _LLAMA_GROUPS),
    "mistral": (hf.MistralConfig(**COMMON, sliding_window=6), _LLAMA_GROUPS),
    "qwen2": (hf.Qwen2Config(**COMMON), _LLAMA_GROUPS),
    "qwen3": (hf.Qwen3Config(**COMMON, head_dim=8), _LLAMA_GROUPS),
    "opt": (
        hf.OPTConfig(
            vocab_size=96,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
        ),
        _OPT_GROUPS,
    ),
    "opt_projected": (
        hf.OPTConfig(
            vocab_size=96,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
            word_embed_proj_dim=16,
            do_layer_norm_before=False,
        ),
        _OPT_GROUPS,
    ),
    "gpt2": (hf.GPT2Config(vocab_size=96, n_embd=32, n_layer=3, n_head=4, n_positions=64), _GPT2_GROUPS),
    "gpt_neox": (
        hf.GPTNeoXConfig(**{**COMMON, "num_key_value_heads": None}),
        [["query_key_value"], ["dense"], ["dense_h_to_4h"], ["dense_4h_to_h"]],
    ),
    "gemma": (hf.GemmaConfig(**COMMON, head_dim=8), _LLAMA_GROUPS),
    "gemma2": (hf.Gemma2Config(**_GEMMA, layer_types=_SLIDING), _LLAMA_GROUPS),
    "gemma3": (hf.Gemma3TextConfig(**_GEMMA, layer_types=_SLIDING), _LLAMA_GROUPS),
    "phi": (
        hf.PhiConfig(**COMMON),
        [["q_proj", "k_proj", "v_proj", "fc1"], ["dense"], ["fc2"]],
    ),
    "phi3": (
        hf.Phi3Config(**COMMON, pad_token_id=0),
        [["o_proj"], ["qkv_proj"], ["gate_up_proj"], ["down_proj"]],
    ),
    "falcon": (
        hf.FalconConfig(vocab_size=96, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, alibi=True),
        [["query_key_value", "dense_h_to_4h"], ["dense"], ["dense_4h_to_h"]],
    ),
}


def tiny_model(family: str, **changes: Any) -> Any:
    """A random model of the family in float32; `changes` replace entries of its config."""
    torch.manual_seed(0)
    config = FAMILIES[family][0].__class__.from_dict({**FAMILIES[family][0].to_dict(), **changes})
    return hf.AutoModelForCausalLM.from_config(config).eval()
