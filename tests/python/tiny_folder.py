"""A tiny random model with a byte tokenizer, as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

POSITIONS = 64
CHAT_TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
SENTENCES = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. "


def byte_tokenizer() -> Any:
    """One token per byte, and `<eos>`; adds no special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(["<eos>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>")


def tiny_llama(blocks: int = 2) -> LlamaForCausalLM:
    """Random float32 Llama with 7 linears of at most 32 x 48 per block."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def write_tiny_folder(folder: Path, blocks: int = 2) -> Path:
    """Saves model and tokenizer to `folder`."""
    tiny_llama(blocks).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def write_text(path: Path, tokens: int = 2000) -> Path:
    """A text file of `tokens` bytes, which are as many tokens."""
    path.write_text((SENTENCES * (tokens // len(SENTENCES) + 1))[:tokens], encoding="utf-8")
    return path
