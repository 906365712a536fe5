"""Damaged checkpoint folders: every fault is one error that names it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_helpers import (
    compress_randomly,
    edit_json,
    shard_names,
    tiny_model,
)
from transformers import AutoModelForCausalLM

import sparlow
from sparlow import _core, shards
from sparlow.manifest import MANIFEST_NAME

sys.path.insert(0, str(Path(__file__).parents[1] / "corrupt"))
from shard_faults import FAULTS


@pytest.mark.parametrize("name", FAULTS)
def test_header_reader_refuses(name: str, tmp_path: Path) -> None:
    damage, message = FAULTS[name]
    good = tmp_path / "good.safetensors"
    shards.write_shard(good, {"a": torch.arange(6).reshape(2, 3), "b": torch.ones(5, dtype=torch.bfloat16)})
    shards.read_header(good)
    (tmp_path / "bad.safetensors").write_bytes(damage(good.read_bytes()))
    with pytest.raises(ValueError, match=rf"shard bad\.safetensors: .*{message}"):
        shards.read_header(tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=rf"shard bad: .*{message}"):
        _core.read_safetensors("bad", (tmp_path / "bad.safetensors").read_bytes())


def test_header_reader_accepts_what_the_reference_library_writes(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(0, 3), "b": torch.tensor(1.0), "c": torch.ones(3, dtype=torch.uint8)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", metadata={"x": "y"})
    found = shards.read_header(tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    assert _core.read_safetensors("a", content) == {
        name: (info.dtype, info.shape, info.begin, info.nbytes) for name, info in found.items()
    }
    assert {name: (info.dtype, info.shape) for name, info in found.items()} == {
        "a": ("F32", (0, 3)),
        "b": ("F32", ()),
        "c": ("U8", (3,)),
    }


def test_truncated_shard_is_named(folder: Path) -> None:
    name = shard_names(folder)[2]
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"shard {name} has .* truncated"):
        sparlow.load(folder)
    with pytest.raises(ValueError, match=rf"shard {name}: .*truncated"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_tampered_shard_is_named(folder: Path) -> None:
    name = shard_names(folder)[2]
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"shard {name} was altered: sha256"):
        sparlow.load(folder)


def test_missing_and_added_shards_are_named(folder: Path) -> None:
    shutil.copy(folder / shard_names(folder)[0], folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"not part of it: \['model\.safetensors'\]"):
        sparlow.load(folder)
    (folder / "model.safetensors").unlink()
    name = shard_names(folder)[1]
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"shard {name} is missing"):
        sparlow.load(folder)


def test_newer_format_version_says_what_to_install(folder: Path) -> None:
    changes = {"format_version": 2, "sparlow_version": "7.1.0"}
    edit_json(folder / MANIFEST_NAME, lambda manifest: manifest.update(changes))
    with pytest.raises(ValueError, match=r"format version 2.*reads up to 1: install sparlow >= 7\.1\.0"):
        sparlow.load(folder)
    edit_json(folder / "config.json", lambda config: config["quantization_config"].update(changes))
    with pytest.raises(ValueError, match=r'pip install "sparlow>=7\.1\.0"'):
        AutoModelForCausalLM.from_pretrained(folder)
    edit_json(folder / MANIFEST_NAME, lambda manifest: manifest.update({"format_version": 1}))
    with pytest.raises(ValueError, match="format version 2"):
        sparlow.load(folder)
    with pytest.raises(ValueError, match="format version 2"):
        sparlow.inspect_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (MANIFEST_NAME, lambda m: m.pop("shards"), "damaged: KeyError"),
        (MANIFEST_NAME, lambda m: m.update(shards=[]), "damaged"),
        (
            MANIFEST_NAME,
            lambda m: m.update(format_version="1"),
            "format_version must be a positive whole number",
        ),
        ("config.json", lambda c: c.pop("quantization_config"), "no quantization_config"),
        (
            "config.json",
            lambda c: c["quantization_config"].update(quant_method="gptq"),
            "no quantization_config",
        ),
        ("config.json", lambda c: c["quantization_config"].update(layers=[]), "must be an object"),
        ("model.safetensors.index.json", lambda i: i.pop("weight_map"), "no weight_map"),
        ("model.safetensors.index.json", lambda i: i["weight_map"].popitem(), "does not match the headers"),
    ],
)
def test_damaged_json_is_named(folder: Path, file: str, change: Callable[[Any], Any], message: str) -> None:
    edit_json(folder / file, change)
    with pytest.raises(ValueError, match=message):
        sparlow.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
@pytest.mark.parametrize("file", [MANIFEST_NAME, "config.json", "model.safetensors.index.json"])
def test_json_that_is_none_is_named(folder: Path, file: str, text: str) -> None:
    (folder / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=file):
        sparlow.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 7}, r"low_rank_u' is BF16\[32, 4\], the layer table says BF16/F16/F32\[32, 7\]"),
        ({"shape": [32, 64]}, r"weight_packed' is BF16\[32, 16\]"),
        ({"format": "dense"}, r"weight_packed' is BF16\[32, 16\]"),
        ({"format": "bitmap", "nnz": 512}, r"weight_packed' is BF16\[32, 16\]"),
        ({"format": "nm24x"}, "unknown format 'nm24x'"),
    ],
)
def test_layer_table_and_shards_must_agree(folder: Path, change: dict[str, Any], message: str) -> None:
    name = "model.layers.0.self_attn.q_proj"
    edit_json(folder / "config.json", lambda c: c["quantization_config"]["layers"][name].update(change))
    with pytest.raises(ValueError, match=message):
        sparlow.load(folder)
    with pytest.raises(ValueError, match=message):
        AutoModelForCausalLM.from_pretrained(folder)


def test_layer_without_tensors_is_named(folder: Path) -> None:
    entry = {"format": "nm24", "pattern": "2:4", "rank": 0, "shape": [64, 32]}
    edit_json(folder / "config.json", lambda c: c["quantization_config"]["layers"].update(lm_head=entry))
    with pytest.raises(ValueError, match=r"tensor 'lm_head\.weight_packed' of the layer table is in no shard"):
        sparlow.load(folder)


def test_tensors_nobody_asked_for_are_an_error(folder: Path) -> None:
    name = "model.layers.0.self_attn.q_proj"
    edit_json(folder / "config.json", lambda c: c["quantization_config"]["layers"].pop(name))
    with pytest.raises(ValueError, match=r"does not fit its own config: missing_keys: .*q_proj\.weight"):
        sparlow.load(folder)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change tensors of a checkpoint in one shard, with a manifest that knows about it."""
    [name] = shard_names(folder)
    # Copies: load_file maps the file that is about to be replaced.
    tensors = {key: tensor.clone() for key, tensor in safetensors.torch.load_file(folder / name).items()}
    change(tensors)
    digest = shards.write_shard(folder / name, tensors)
    record = {"bytes": (folder / name).stat().st_size, "sha256": digest}
    edit_json(folder / MANIFEST_NAME, lambda manifest: manifest.update(shards={name: record}))


@pytest.mark.parametrize("pattern", ["2:4", "0.5@row"])
def test_illegal_positions_are_named(tmp_path: Path, pattern: str) -> None:
    model = compress_randomly(tiny_model(), pattern)
    folder = sparlow.save(model, tmp_path / "model")
    key = "model.layers.1.mlp.gate_proj.weight_meta"

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key][5, 2] = 0

    rewrite(folder, damage)
    expected = r"layer 'model\.layers\.1\.mlp\.gate_proj'.*weight_meta"
    for load in (sparlow.load, AutoModelForCausalLM.from_pretrained, lambda f: sparlow.load(f, verify=False)):
        with pytest.raises(ValueError, match=expected):
            load(folder)


def test_mixed_types_and_double_tensors_are_named(tmp_path: Path) -> None:
    folder = sparlow.save(compress_randomly(tiny_model()), tmp_path / "model")
    key = "model.layers.1.mlp.gate_proj.low_rank_u"
    rewrite(folder, lambda tensors: tensors.update({key: tensors[key].float()}))
    with pytest.raises(ValueError, match=r"gate_proj' mixes the types \['BF16', 'F32'\]"):
        sparlow.load(folder)


def test_same_tensor_in_two_shards_is_named(folder: Path) -> None:
    first, second = shard_names(folder)[:2]
    content = (folder / first).read_bytes()
    (folder / second).write_bytes(content)
    record = json.loads((folder / MANIFEST_NAME).read_text())["shards"][first]
    edit_json(folder / MANIFEST_NAME, lambda manifest: manifest["shards"].update({second: record}))
    with pytest.raises(ValueError, match=f"is in two shards: {first} and {second}"):
        sparlow.load(folder)


def test_without_verify_the_data_are_not_hashed(folder: Path) -> None:
    for name in shard_names(folder):
        for tensor, info in shards.read_header(folder / name).items():
            if tensor == "model.norm.weight":
                content = bytearray((folder / name).read_bytes())
                content[info.begin] ^= 1
                (folder / name).write_bytes(content)
    sparlow.load(folder, verify=False)
    with pytest.raises(ValueError, match="altered"):
        sparlow.load(folder)
