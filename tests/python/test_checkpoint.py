"""Saving and loading: what is written, round trips, atomicity."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_helpers import (
    compress_randomly,
    file_bytes,
    logits,
    metrics_of,
    shard_names,
    tiny_model,
)
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

import sparlow
from sparlow import api, checkpoint, hf, shards
from sparlow.atomic import check_target
from sparlow.manifest import MANIFEST_NAME
from sparlow.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "corrupt"))


def tokenizer() -> PreTrainedTokenizerFast:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


def test_folder_has_every_part(model: PreTrainedModel, tmp_path: Path) -> None:
    folder = sparlow.save(model, tmp_path / "new" / "model", metrics=metrics_of(model), tokenizer=tokenizer())
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert {path.name for path in folder.iterdir()} >= expected | {"metrics.jsonl", MANIFEST_NAME}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == list(hf.compressed_modules(model))
    assert AutoTokenizer.from_pretrained(folder)("b a")["input_ids"] == [2, 1]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]


def test_config_names_version_recipe_and_layers(reference: Path) -> None:
    config = json.loads((reference / "config.json").read_text())
    quantization = config["quantization_config"]
    assert (quantization["quant_method"], quantization["format_version"]) == ("sparlow", 1)
    assert quantization["recipe"]["pattern"] == "2:4"
    entry = quantization["layers"]["model.layers.1.mlp.up_proj"]
    assert entry == {"format": "nm24", "pattern": "2:4", "rank": 4, "shape": [56, 32]}
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "bfloat16")


def test_shards_are_plain_tensors_of_packed_size(model: PreTrainedModel, reference: Path) -> None:
    found = {}
    for name in shard_names(reference):
        found |= safetensors.torch.load_file(reference / name)
        assert sum(info.nbytes for info in shards.read_header(reference / name).values()) <= 6000
    state = model.state_dict()
    assert len(shard_names(reference)) > 3
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_writer_equals_the_reference_library(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 7, dtype=torch.bfloat16),
        "transposed": torch.randn(4, 6).bfloat16().T,
        "flags": torch.tensor([True, False]),
        "long": torch.arange(5),
    }
    shards.write_shard(tmp_path / "ours", tensors)
    loaded = safetensors.torch.load_file(tmp_path / "ours")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    with pytest.raises(ValueError, match="tensor 'z'"):
        shards.write_shard(tmp_path / "bad", {"z": torch.zeros(2, dtype=torch.complex64)})


def test_save_load_save_of_everything_is_bit_identical(model: PreTrainedModel, tmp_path: Path) -> None:
    # transformers adds a note to a tokenizer that it read from a folder, so the first is read from one.
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    first = sparlow.save(
        model,
        tmp_path / "first",
        metrics=metrics_of(model),
        tokenizer=AutoTokenizer.from_pretrained(tmp_path / "tokenizer"),
        evaluation={"perplexity": {"dense": 12.5, "compressed": float("inf")}},
        base_model="someone/tiny-llama",
        max_shard_bytes=6000,
    )
    loaded = sparlow.load(first)
    assert loaded.sparlow_info.evaluation == {"perplexity": {"dense": 12.5, "compressed": None}}
    second = sparlow.save(
        loaded, tmp_path / "second", tokenizer=AutoTokenizer.from_pretrained(first), max_shard_bytes=6000
    )
    assert file_bytes(first) == file_bytes(second)


def test_result_of_a_compression_is_accepted(model: PreTrainedModel, tmp_path: Path) -> None:
    @dataclass
    class Record:
        name: str
        relative_loss: float

    @dataclass
    class Result:
        model: PreTrainedModel
        tokenizer: None
        recipe: dict[str, Any]
        layers: list[Record]

    result = Result(model, None, {"method": "wanda"}, [Record("model.layers.0.mlp.up_proj", float("nan"))])
    folder = sparlow.save(result, tmp_path / "model")
    assert sparlow.load(folder).sparlow_info.metrics == [{"name": "model.layers.0.mlp.up_proj", "relative_loss": None}]
    assert "method: wanda" in (folder / "README.md").read_text()


def test_compress_save_load_end_to_end(tmp_path: Path) -> None:
    recipe = Recipe(method="threebasil", pattern="2:4", rank=4, calibration={"windows": 4, "window_tokens": 16})
    result = api.compress(tiny_model(), recipe, tokens=torch.randint(3, 64, (100,)))
    first = result.save(tmp_path / "first")
    loaded = sparlow.load(first)
    assert torch.equal(logits(loaded), logits(result.model))
    assert loaded.sparlow_info.calibration_hash == result.calibration_hash is not None
    assert [record["name"] for record in loaded.sparlow_info.metrics] == list(hf.compressed_modules(loaded))
    assert file_bytes(first) == file_bytes(sparlow.save(loaded, tmp_path / "second"))


def test_what_is_not_a_compressed_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no compressed layer"):
        sparlow.save(tiny_model(), tmp_path / "model")
    with pytest.raises(ValueError, match="got str"):
        sparlow.save("model", tmp_path / "model")
    with pytest.raises(ValueError, match="max_shard_bytes"):
        sparlow.save(compress_randomly(tiny_model()), tmp_path / "model", max_shard_bytes=0)
    partly = compress_randomly(tiny_model())
    partly.lm_head.to("meta")
    with pytest.raises(ValueError, match=r"offloaded or not loaded.*lm_head"):
        sparlow.save(partly, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# --- where it is written -------------------------------------------------------------------------


def test_existing_folder_is_refused_without_overwrite(model: PreTrainedModel, folder: Path) -> None:
    before = file_bytes(folder)
    with pytest.raises(FileExistsError, match=r"overwrite=True \(--overwrite\)"):
        sparlow.save(model, folder)
    assert file_bytes(folder) == before
    sparlow.save(model, folder, overwrite=True)
    assert shard_names(folder) == ["model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_only_checkpoints_are_overwritten(model: PreTrainedModel, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    sparlow.save(model, tmp_path / "work", overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.tex").write_text("years")
    (tmp_path / "file").write_text("text")
    for name in ("thesis", "file"):
        with pytest.raises(FileExistsError, match="not a sparlow checkpoint"):
            sparlow.save(model, tmp_path / name, overwrite=True)
        with pytest.raises(FileExistsError):
            check_target(tmp_path / name, overwrite=True)
    assert (tmp_path / "thesis" / "chapter-1.tex").read_text() == "years"
    check_target(tmp_path / "free", overwrite=False)


def test_overwriting_the_folder_the_model_came_from(folder: Path) -> None:
    model = sparlow.load(folder)
    expected = logits(model)
    sparlow.save(model, folder, overwrite=True)
    assert torch.equal(logits(sparlow.load(folder)), expected)


def interrupt_at_second_shard(monkeypatch: pytest.MonkeyPatch, fault: Callable[[], None]) -> None:
    write, calls = shards.write_shard, []

    def failing(path: Path, tensors: Any) -> str:
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            fault()
        return write(path, tensors)

    monkeypatch.setattr(checkpoint, "write_shard", failing)


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (full_disk, OSError),
        (lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt),
        (lambda: json.loads("{"), ValueError),
    ],
)
def test_a_failed_save_leaves_nothing_and_touches_nothing(
    model: PreTrainedModel,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[], None],
    error: type[BaseException],
    existing: bool,
) -> None:
    target = folder if existing else folder.parent / "other"
    before = file_bytes(folder)
    interrupt_at_second_shard(monkeypatch, fault)
    with pytest.raises(error) as caught:
        sparlow.save(model, target, overwrite=True, max_shard_bytes=6000)
    if error is OSError:
        assert "No space left on device" in str(caught.value)
        assert "bytes are free" in str(caught.value)
        assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert file_bytes(folder) == before


@pytest.mark.parametrize("renames", [0, 1])
def test_interrupt_while_the_folders_change_places(
    model: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    before, rename, calls = file_bytes(folder), os.rename, []

    def interrupted(source: Any, target: Any) -> None:
        calls.append(source)
        if len(calls) == renames + 1:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sparlow.save(model, folder, overwrite=True)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert file_bytes(folder) == before


def test_a_full_disk_for_real(folder: Path) -> None:
    script = (
        "import sparlow, sys\n"
        "try:\n"
        "    sparlow.save(sparlow.load(sys.argv[1]), sys.argv[2])\n"
        "except OSError as error:\n"
        "    print('refused:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(folder.parent / "other")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)),
        check=True,
    )
    assert "refused: " in done.stdout
    assert "File too large" in done.stdout
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_killed_save_is_never_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    (folder / MANIFEST_NAME).unlink()
    with pytest.raises(ValueError, match=r"not a finished sparlow checkpoint: sparlow\.json"):
        sparlow.load(folder)
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        sparlow.load(tmp_path / "nowhere")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_told_before_anything_is_read(tmp_path: Path) -> None:
    for device in ("cuda", torch.device("cuda", 1)):
        with pytest.raises(RuntimeError, match="this machine has no GPU that torch can use; use device 'cpu'"):
            sparlow.load(tmp_path / "nowhere", device=device)
