"""Calibration data: from text, chats or tokens to windows of token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .recipe import Calibration
from .sources import read_jsonl, read_text, read_tokens, rows_of_dataset

_TOKEN_FILES = (".pt", ".npy", ".safetensors")
_CHAT_FIELD = "messages"


@dataclass(frozen=True)
class Windows:
    """Packed calibration windows.

    ids: [windows, window_tokens] int64 token ids, on the CPU. hash: SHA-256 (hex) of their shape and values.
    """

    ids: Tensor
    hash: str


def load_windows(
    settings: Calibration, *, tokenizer: Any = None, tokens: Tensor | None = None, seed: int = 0
) -> Windows:
    """Cut the calibration data into contiguous windows that do not overlap, and draw `settings.windows`
    of them.

    tokens: token ids to use instead of `settings.source`, as one stream [n] or as ready windows
    [n, window_tokens]. The draw depends on `seed` only. Texts follow one another, an end-of-text token
    between them; chats are separated by what their template writes.

    Errors: OSError for an unreadable file; ValueError for a missing tokenizer, a malformed source, or fewer
    tokens than the windows need, with both numbers.
    """
    if tokens is None:
        if settings.source is None:
            raise ValueError("no calibration data: give 'calibration.source' in the recipe, or tokens")
        tokens = _tokens_of(settings, tokenizer, seed)
        origin = f"calibration source '{settings.source}'"
    else:
        origin = "the calibration tokens"
    available = _cut(tokens, settings.window_tokens, origin)
    _check_enough(available, settings, tokens.numel(), origin)
    order = torch.randperm(len(available), generator=torch.Generator().manual_seed(seed))
    ids = available[order[: settings.windows].sort().values].to(torch.int64).contiguous()
    return Windows(ids, _hash(ids))


def _tokens_of(settings: Calibration, tokenizer: Any, seed: int) -> Tensor:
    source = Path(str(settings.source))
    if source.suffix in _TOKEN_FILES:
        return read_tokens(source)
    if tokenizer is None:
        raise ValueError(f"calibration source '{source}' is text, but there is no tokenizer; pass one, or give tokens")
    if source.suffix == ".txt":
        return _encode_text(tokenizer, read_text(source))
    if source.suffix == ".jsonl":
        return _stream(_encode_rows(read_jsonl(source), settings.field, tokenizer), None)
    if source.exists():
        raise ValueError(f"calibration source '{source}': expected .txt, .jsonl, {', '.join(_TOKEN_FILES)}")
    rows = rows_of_dataset(str(settings.source), seed)
    return _stream(_encode_rows(rows, settings.field, tokenizer), settings.windows * settings.window_tokens)


def _encode_text(tokenizer: Any, text: str) -> Tensor:
    # verbose=False: a whole file is longer than the model's context on purpose.
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.int64)


def _encode_rows(rows: Iterable[dict[str, Any]], field: str | None, tokenizer: Any) -> Iterator[Tensor]:
    for number, row in enumerate(rows, start=1):
        name = field or (_CHAT_FIELD if _CHAT_FIELD in row else "text")
        if name not in row:
            raise ValueError(f"calibration row {number} has no field '{name}' (it has: {', '.join(row)})")
        yield _encode_value(tokenizer, row[name], f"field '{name}' of calibration row {number}")


def _encode_value(tokenizer: Any, value: Any, where: str) -> Tensor:
    if isinstance(value, str):
        return _encode_document(tokenizer, value)
    if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
        if not tokenizer.chat_template:
            raise ValueError(f"{where} is a chat, but the tokenizer has no chat template")
        return _encode_chat(tokenizer, value)
    raise ValueError(f"{where} is a {type(value).__name__}; expected text or a list of chat messages")


def _encode_document(tokenizer: Any, text: str) -> Tensor:
    """Token ids of one text among others, ended by an end-of-text token if the tokenizer has one."""
    ids, end = _encode_text(tokenizer, text), tokenizer.eos_token_id
    if end is None or len(ids) == 0 or ids[-1] == end:
        return ids
    return torch.cat([ids, torch.tensor([end])])


def _encode_chat(tokenizer: Any, messages: list[dict[str, Any]]) -> Tensor:
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    # The template writes the special tokens itself, those at its end included.
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.int64)


def _stream(rows: Iterable[Tensor], enough: int | None) -> Tensor:
    """The rows one after another; reading ends at `enough` tokens."""
    parts: list[Tensor] = []
    total = 0
    for ids in rows:
        parts.append(ids)
        total += len(ids)
        if enough is not None and total >= enough:
            break
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def _cut(tokens: Tensor, length: int, origin: str) -> Tensor:
    """[n, length] consecutive windows of a stream; ready windows are passed through."""
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"{origin}: token ids must be integers, got {tokens.dtype}")
    tokens = tokens.detach().cpu()
    if tokens.ndim == 2 and tokens.shape[1] == length:
        return tokens
    if tokens.ndim == 2:
        raise ValueError(
            f"{origin}: windows of {tokens.shape[1]} tokens, but the recipe asks for window_tokens={length}; "
            f"set window_tokens to {tokens.shape[1]}, or give one stream [n]"
        )
    if tokens.ndim != 1:
        raise ValueError(f"{origin}: expected token ids of shape [n] or [windows, window_tokens], got {tokens.ndim}-D")
    count = len(tokens) // length
    return tokens[: count * length].reshape(count, length)


def _check_enough(available: Tensor, settings: Calibration, total: int, origin: str) -> None:
    if total == 0:
        raise ValueError(f"{origin} is empty: it holds 0 tokens")
    if len(available) < settings.windows:
        needed = settings.windows * settings.window_tokens
        lower = f"windows to {len(available)} or window_tokens" if len(available) else f"window_tokens to {total}"
        raise ValueError(
            f"{origin} is too short: it holds {total} tokens, {settings.windows} windows of "
            f"{settings.window_tokens} need {needed}; give more text, or lower calibration.{lower}"
        )


def _hash(ids: Tensor) -> str:
    digest = hashlib.sha256(f"{tuple(ids.shape)}".encode())
    digest.update(ids.numpy().astype("<i8", copy=False).tobytes())
    return digest.hexdigest()
