"""An interrupted run goes on from its finished blocks, and gives the same bits as one that was not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from tiny_folder import tiny_llama

import sparlow
from sparlow import journal
from sparlow.api import Compressed
from sparlow.layers import SparseLowRankLinear
from sparlow.records import LayerRecord, Silent

BLOCKS = 3


class Stop(Silent):
    """Interrupts at the first layer of a block."""

    def __init__(self, block: int, error: BaseException | None = None) -> None:
        self.stop, self.now, self.error = block, -1, error or KeyboardInterrupt()
        self.layers: list[str] = []

    def block(self, index: int) -> None:
        self.now = index

    def layer(self, record: LayerRecord) -> None:
        if self.now == self.stop:
            raise self.error
        self.layers.append(record.name)


def recipe(**changes: object) -> sparlow.Recipe:
    settings: dict[str, object] = {
        "rank": 4,
        "options": {"iterations": 5},
        "calibration": {"windows": 4, "window_tokens": 32, "batch": 2},
    }
    return sparlow.Recipe.from_dict({**settings, **changes})


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 257, (4, 32), generator=torch.Generator().manual_seed(seed))


def run(folder: Path | None, progress: Silent | None = None, restart: bool = False, **changes: object) -> Compressed:
    return sparlow.compress(
        tiny_llama(BLOCKS), recipe(**changes), tokens=tokens(), progress=progress, journal=folder, restart=restart
    )


def interrupted(folder: Path, block: int, **changes: object) -> BaseException:
    with pytest.raises(KeyboardInterrupt) as caught:
        run(folder, Stop(block), **changes)
    return caught.value


def shard_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("block", [1, 2])
def test_it_goes_on_with_the_same_bits(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run(None).save(tmp_path / "whole")
    error = interrupted(tmp_path / "kept", block)
    count = "1 finished block is" if block == 1 else "2 finished blocks are"
    assert error.__notes__ == [f"{count} kept in {tmp_path / 'kept'}: run the same again to go on from there"]

    solved: list[str] = []
    real = sparlow.traversal.decompose
    monkeypatch.setattr(
        sparlow.traversal, "decompose", lambda *args, **rest: solved.extend(rest["names"]) or real(*args, **rest)
    )
    shown = Stop(-2)
    result = run(tmp_path / "kept", shown)
    assert {name.split(".")[2] for name in solved} == {str(index) for index in range(block, BLOCKS)}
    assert [record.name for record in result.layers] == shown.layers
    assert len(shown.layers) == 7 * BLOCKS
    result.save(tmp_path / "resumed")
    assert shard_hash(tmp_path / "resumed") == shard_hash(tmp_path / "whole")
    assert not (tmp_path / "kept").exists()


def test_an_interruption_within_the_first_block_leaves_nothing(tmp_path: Path) -> None:
    assert not getattr(interrupted(tmp_path / "kept", 0), "__notes__", [])
    assert list(tmp_path.iterdir()) == []


def test_memory_running_out_keeps_the_blocks_and_another_batch_size_goes_on(tmp_path: Path) -> None:
    with pytest.raises(MemoryError) as caught:
        run(tmp_path / "kept", Stop(1, MemoryError("the GPU is out of memory")))
    assert "1 finished block is kept" in caught.value.__notes__[0]
    smaller = {"windows": 4, "window_tokens": 32, "batch": 1}
    assert len(run(tmp_path / "kept", calibration=smaller).layers) == 7 * BLOCKS


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"rank": 3}, "recipe.rank is 4 there and 3 here"), ({"seed": 1}, "recipe.seed is 0 there and 1 here")],
)
def test_another_run_is_refused_and_may_start_again(tmp_path: Path, changes: dict[str, object], what: str) -> None:
    interrupted(tmp_path / "kept", 1)
    with pytest.raises(ValueError, match=what) as caught:
        run(tmp_path / "kept", **changes)
    assert not getattr(caught.value, "__notes__", [])  # the same again would be refused again
    assert len(list((tmp_path / "kept").glob("block-*.json"))) == 1
    assert len(run(tmp_path / "kept", restart=True, **changes).layers) == 7 * BLOCKS


def test_other_weights_and_other_tokens_are_another_run(tmp_path: Path) -> None:
    interrupted(tmp_path / "kept", 1)
    model = tiny_llama(BLOCKS)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight.mul_(2)
    with pytest.raises(ValueError, match="weights is"):
        sparlow.compress(model, recipe(), tokens=tokens(), journal=tmp_path / "kept")
    with pytest.raises(ValueError, match="calibration_hash is"):
        sparlow.compress(tiny_llama(BLOCKS), recipe(), tokens=tokens(1), journal=tmp_path / "kept")


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    for restart in (False, True):
        with pytest.raises(ValueError, match="not a folder of finished blocks"):
            run(tmp_path, restart=restart)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_restarting_deletes_only_its_own_files(tmp_path: Path) -> None:
    interrupted(tmp_path / "kept", 1)
    (tmp_path / "kept" / "mine.txt").write_text("precious")
    run(tmp_path / "kept", restart=True).save(tmp_path / "out")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["mine.txt"]


def test_damage_is_named(tmp_path: Path) -> None:
    interrupted(tmp_path / "kept", 2)
    shard = tmp_path / "kept" / "block-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"block-00001.safetensors is missing or was altered"):
        run(tmp_path / "kept")
    (tmp_path / "kept" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json is damaged"):
        run(tmp_path / "kept")


def test_a_block_without_its_sidecar_is_compressed_again(tmp_path: Path) -> None:
    interrupted(tmp_path / "kept", 2)
    (tmp_path / "kept" / "block-00001.json").unlink()
    run(None).save(tmp_path / "whole")
    run(tmp_path / "kept").save(tmp_path / "out")
    assert shard_hash(tmp_path / "out") == shard_hash(tmp_path / "whole")


def test_a_finished_block_is_mapped_from_its_file(tmp_path: Path) -> None:
    result = run(tmp_path / "kept")
    layers = [module for module in result.model.modules() if isinstance(module, SparseLowRankLinear)]
    mapped = Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else None
    if mapped is None:
        pytest.skip("no list of mapped files on this system")
    places = [line.split()[0].split("-") for line in mapped.splitlines() if "block-0" in line]
    for layer in layers:
        address = layer.weight_packed.data_ptr()
        assert any(int(low, 16) <= address < int(high, 16) for low, high in places)
        assert not layer.weight_packed.requires_grad
        assert layer.low_rank_u.requires_grad


def test_run_json_has_no_place_of_this_machine(tmp_path: Path) -> None:
    interrupted(tmp_path / "kept", 1)
    text = (tmp_path / "kept" / "run.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["sparlow"] == sparlow.__version__


def test_a_full_disk_names_itself_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = journal.write_shard

    def full(path: Path, tensors: object) -> str:
        if "00001" in path.name:
            raise OSError(28, "No space left on device")  # as a write says it, without a name
        return real(path, tensors)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "write_shard", full)
    with pytest.raises(OSError, match=rf"could not write {tmp_path / 'kept'}: No space .* bytes are free") as caught:
        run(tmp_path / "kept")
    assert caught.value.errno == 28
    assert "1 finished block is kept" in caught.value.__notes__[0]


def test_a_save_that_fails_says_that_the_blocks_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(tmp_path / "kept")

    def full(*_args: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparlow.checkpoint.write_shard", full)
    with pytest.raises(OSError, match="No space") as caught:
        result.save(tmp_path / "out")
    assert f"{BLOCKS} finished blocks are kept in {tmp_path / 'kept'}" in caught.value.__notes__[0]
    (tmp_path / "taken").mkdir()
    with pytest.raises(FileExistsError) as other:
        result.save(tmp_path / "taken")
    assert "finished blocks" in other.value.__notes__[0]
