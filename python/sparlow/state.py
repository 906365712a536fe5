"""What of a model goes to disk: tensors without their aliases, split into shards, and a matching config."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel


def _storage_key(tensor: Tensor) -> tuple[object, ...]:
    start = tensor.untyped_storage().data_ptr() + tensor.storage_offset() * tensor.element_size()
    return (tensor.device, start, tensor.dtype, tuple(tensor.shape), tensor.stride())


def head_is_tied(model: PreTrainedModel) -> bool | None:
    """Whether the output head shares the memory of the input embeddings; None if the model has no head.

    Decided by memory: the config may say otherwise, for a head that was replaced or tied by hand.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    embeddings: Any = model.get_input_embeddings()
    if head is None or embeddings is None:
        return None
    return _storage_key(head.weight) == _storage_key(embeddings.weight)


def stored_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """State dict without the names that loading ties again. ValueError for weights that are not in memory."""
    state: dict[str, Tensor] = dict(model.state_dict())
    missing = [name for name, tensor in state.items() if tensor.device.type == "meta"]
    if missing:
        what = f"{len(missing)} tensors are offloaded or not loaded, the first is {missing[0]!r}"
        raise ValueError(f"{what}; load the whole model into memory")
    retied = set(model.all_tied_weights_keys) | set(model._tied_weights_keys or ())
    kept = {_storage_key(tensor) for name, tensor in state.items() if name not in retied}
    return {name: t for name, t in state.items() if name not in retied or t.numel() == 0 or _storage_key(t) not in kept}


def stored_config(model: PreTrainedModel) -> PreTrainedConfig:
    """A copy of the config that describes the model as it is: class, dtype, tied head or not."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    tied = head_is_tied(model)
    if tied is not None:
        for part in {id(c): c for c in (config, config.get_text_config())}.values():
            if hasattr(part, "tie_word_embeddings"):
                part.tie_word_embeddings = tied
    return config


def split_shards(tensors: Mapping[str, Tensor], max_bytes: int) -> list[dict[str, Tensor]]:
    """Consecutive groups of at most `max_bytes`; a larger tensor has a shard to itself."""
    if max_bytes < 1:
        raise ValueError(f"max_shard_bytes must be positive, got {max_bytes}")
    return list(_groups(tensors, max_bytes)) or [{}]


def _groups(tensors: Mapping[str, Tensor], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    group: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        nbytes = tensor.numel() * tensor.element_size()
        if group and size + nbytes > max_bytes:
            yield group
            group, size = {}, 0
        group[name] = tensor
        size += nbytes
    if group:
        yield group
