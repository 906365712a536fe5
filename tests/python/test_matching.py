"""Matching: lower block loss, the pattern kept, the same bits twice, and what happens when training goes wrong."""

from __future__ import annotations

import dataclasses
import io
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from families import tiny_model
from rich.console import Console

import sparlow
from sparlow.api import compress, plan
from sparlow.layers import SparseLowRankLinear
from sparlow.matching.graphs import Rehearsal, Waits
from sparlow.matching.settings import Matching
from sparlow.matching.steps import Stepper
from sparlow.matching.terms import LowRankTerm, SparseTerm
from sparlow.matching.trainer import held_batches, rate_at
from sparlow.recipe import Recipe
from sparlow.records import MatchingRecord, Silent
from sparlow.report import matching_table
from sparlow.solve import relative_loss
from sparlow.stream import Stream

_TOKENS = torch.randint(0, 96, (48, 16), generator=torch.Generator().manual_seed(3))
_CALIBRATION = {"windows": 48, "window_tokens": 16}
_FAST = {"epochs": 4, "batch": 4, "learning_rate": 2e-3}


def _recipe(matching: dict[str, Any] | bool | None = None, **changes: Any) -> Recipe:
    data: dict[str, Any] = {"method": "wanda", "dtype": "float32", "calibration": _CALIBRATION, **changes}
    return Recipe.from_dict({**data, "matching": _FAST if matching is None else matching})


def _supports(model: Any) -> dict[str, torch.Tensor]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SparseLowRankLinear)}
    return {name: layer.sparse_dense() != 0 for name, layer in layers.items()}


def _held_out_loss(dense: Any, compressed: Any) -> float:
    with torch.no_grad():
        logits = [model(input_ids=_TOKENS).logits.log_softmax(-1) for model in (dense, compressed)]
    return float(torch.nn.functional.kl_div(logits[1], logits[0], log_target=True, reduction="batchmean"))


@pytest.mark.parametrize("method", [method.name for method in sparlow.methods()])
@pytest.mark.parametrize("pattern", ["2:4", "0.5@row"])
def test_every_method_gains_and_keeps_its_support(method: str, pattern: str) -> None:
    low_rank = {"rank": 2} if next(m for m in sparlow.methods() if m.name == method).low_rank else {}
    before = compress(tiny_model("llama"), _recipe(False, method=method, pattern=pattern, **low_rank), tokens=_TOKENS)
    after = compress(tiny_model("llama"), _recipe(method=method, pattern=pattern, **low_rank), tokens=_TOKENS)
    # Later blocks are compressed on another stream; of the first one, the same layers were trained.
    for name, support in _supports(before.model.model.layers[0]).items():
        layer = after.model.model.layers[0].get_submodule(name)
        assert torch.equal(layer.sparse_dense() != 0, support), name
        assert layer.pattern == pattern
        assert not torch.equal(layer.sparse_dense(), before.model.model.layers[0].get_submodule(name).sparse_dense())
    assert [record.block for record in after.matching] == [f"model.layers.{i}" for i in range(3)]
    assert all(record.held_out_after <= record.held_out_before for record in after.matching)
    assert sum(record.held_out_after < record.held_out_before for record in after.matching) >= 2
    assert before.matching == []
    dense = tiny_model("llama")
    assert _held_out_loss(dense, after.model) < _held_out_loss(dense, before.model)


@pytest.mark.parametrize("target", ["compressed", "dense", "mixed"])
@pytest.mark.parametrize("loss", ["squared", "normalized"])
def test_the_recorded_loss_is_that_of_the_stored_block(target: str, loss: str) -> None:
    dense, settings = tiny_model("qwen2"), {**_FAST, "target": target, "loss": loss, "holdout": 0.25, "norms": True}
    result = compress(tiny_model("qwen2"), _recipe(settings), tokens=_TOKENS)
    held = _TOKENS[-12:]
    inputs, outputs = ([_hidden(model, held, index) for index in range(3)] for model in (dense, result.model))
    block = dense.model.layers[1]
    on_compressed, on_dense = _run(dense, block, outputs[1]), inputs[2]
    wanted = {"compressed": on_compressed, "dense": on_dense, "mixed": (on_compressed + on_dense) / 2}[target]
    errors, energies = (outputs[2] - wanted).square().sum(-1), wanted.square().sum(-1)
    # Squared errors are scaled by the mean energy of all targets, which the test sees only the held-out part of.
    found = float((errors / energies).mean() if loss == "normalized" else errors.mean() / energies.mean())
    assert result.matching[1].held_out_after == pytest.approx(found, rel=1e-3 if loss == "normalized" else 0.1)


def _hidden(model: Any, tokens: torch.Tensor, index: int) -> torch.Tensor:
    """What goes into block `index`."""
    with torch.no_grad():
        return model(input_ids=tokens, output_hidden_states=True).hidden_states[index]


def _run(model: Any, block: Any, hidden: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(hidden.shape[1])[None]
    with torch.no_grad():
        output = block(hidden, position_embeddings=model.model.rotary_emb(hidden, positions))
    return output if isinstance(output, torch.Tensor) else output[0]


def test_same_seed_same_bits() -> None:
    first, second, other = (compress(tiny_model("llama"), _recipe(seed=seed), tokens=_TOKENS) for seed in (0, 0, 1))
    same = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert [r.held_out_after for r in first.matching] != [r.held_out_after for r in other.matching]


def test_biases_and_norms_are_trained_when_they_should_be() -> None:
    dense = tiny_model("gpt2")
    plain = compress(tiny_model("gpt2"), _recipe(_FAST), tokens=_TOKENS).model
    normed = compress(tiny_model("gpt2"), _recipe({**_FAST, "norms": True}), tokens=_TOKENS).model
    block, with_norms = plain.transformer.h[0], normed.transformer.h[0]
    assert not torch.equal(block.mlp.c_fc.bias, dense.transformer.h[0].mlp.c_fc.bias)
    assert torch.equal(block.ln_1.weight, dense.transformer.h[0].ln_1.weight)
    assert not torch.equal(with_norms.ln_1.weight, dense.transformer.h[0].ln_1.weight)
    assert all(p.requires_grad for p in with_norms.ln_1.parameters())


def test_host_activations_give_the_same_bits() -> None:
    results = [
        compress(tiny_model("llama"), _recipe({**_FAST, "activations": where}), tokens=_TOKENS)
        for where in ("device", "host")
    ]
    a, b = (result.model.state_dict() for result in results)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("forward", "matching"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_passes_of_matching_may_have_another_dtype(forward: str, matching: str) -> None:
    settings = {**_FAST, "dtype": matching}
    result = compress(tiny_model("llama"), _recipe(settings, compute_dtype=forward), tokens=_TOKENS)
    same = compress(tiny_model("llama"), _recipe({**_FAST, "dtype": forward}, compute_dtype=forward), tokens=_TOKENS)
    assert result.matching[0].held_out_after < result.matching[0].held_out_before
    assert result.matching[0].held_out_after != same.matching[0].held_out_after
    assert result.matching[0].held_out_after == pytest.approx(same.matching[0].held_out_after, rel=0.02)


class _Interrupter(Stepper):
    """Stops training like Ctrl-C in its thirteenth step, when the first epoch is complete."""

    count = 0

    def step(self, batch: Any, rate: float) -> None:
        type(self).count += 1
        if self.count == 14:
            raise KeyboardInterrupt
        super().step(batch, rate)


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.to("meta"),
        lambda x: torch.empty_like(x, device="meta").copy_(x),
    ],
)
def test_a_rehearsal_finds_what_a_graph_cannot_hold(waits: Any) -> None:
    x = torch.randn(8, 8, requires_grad=True)
    with Rehearsal():
        (torch.nn.functional.linear(x, x).to(torch.bfloat16).float() ** 2).sum().backward()
    assert x.grad is not None
    with Rehearsal(), pytest.raises(Waits):
        waits(x.detach())


def test_interruption_leaves_the_model_as_it_was_and_the_student_at_its_best(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []

    class Interrupter(_Interrupter):
        def __init__(self, block: Any, student: Any, device: str, *, graphs: bool) -> None:
            held.append(student)
            super().__init__(block, student, device, graphs=graphs)

    one_epoch = compress(tiny_model("llama"), _recipe({**_FAST, "epochs": 4}), tokens=_TOKENS)
    monkeypatch.setattr("sparlow.matching.trainer.Stepper", Interrupter)
    model, dense = tiny_model("llama"), tiny_model("llama")
    with pytest.raises(KeyboardInterrupt):
        compress(model, _recipe(), tokens=_TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), dense.state_dict().values(), strict=True))
    assert all(p.requires_grad for p in model.parameters())
    layer = held[0].layers()["model.layers.0.mlp.up_proj"]
    assert one_epoch.matching[0].curve[1].held_out < one_epoch.matching[0].curve[0].held_out
    start = compress(tiny_model("llama"), _recipe(False), tokens=_TOKENS).model.model.layers[0].mlp.up_proj
    assert not torch.equal(layer.sparse_dense(), start.sparse_dense())
    assert torch.equal(layer.sparse_dense() != 0, start.sparse_dense() != 0)


class _Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.records: list[MatchingRecord] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def matched(self, record: MatchingRecord) -> None:
        self.records.append(record)


def test_divergence_lowers_the_step_and_keeps_the_best() -> None:
    watcher = _Notes()
    wild = {**_FAST, "learning_rate": 1.0, "epochs": 8}
    result = compress(tiny_model("llama"), _recipe(wild), tokens=_TOKENS, progress=watcher)
    assert watcher.records == result.matching
    record = result.matching[0]
    assert record.lowered >= 1
    assert record.held_out_after <= record.held_out_before
    assert record.curve[-1].learning_rate < record.curve[1].learning_rate
    assert any("model.layers.0: matching diverged" in note for note in watcher.notes)
    console = Console(width=200, file=io.StringIO())
    console.print(matching_table([dataclasses.asdict(record)]))
    cells = console.file.getvalue().splitlines()[1].split()
    assert cells[0] == "model.layers.0"
    assert cells[-2] == str(record.lowered)
    assert all(torch.isfinite(p).all() for p in result.model.parameters() if p.is_floating_point())


def test_nan_is_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Stepper._update, [0]

    def poisoned(self: Stepper, batch: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 2:
            self._student.masters[0].fill_(math.nan)
        return original(self, batch)

    monkeypatch.setattr(Stepper, "_update", poisoned)
    result = compress(tiny_model("llama"), _recipe(), tokens=_TOKENS)
    record = result.matching[0]
    assert math.isnan(record.curve[1].held_out)
    assert record.lowered == 1
    assert record.held_out_after < record.held_out_before


def test_early_stopping_stops() -> None:
    settings = {**_FAST, "epochs": 60, "patience": 1, "learning_rate": 0.03, "schedule": "constant"}
    record = compress(tiny_model("llama"), _recipe(settings), tokens=_TOKENS).matching[0]
    assert record.stopped_early
    assert record.held_out_after == min(epoch.held_out for epoch in record.curve)
    assert len(record.curve) < 61


def test_nothing_to_train_is_an_error() -> None:
    recipe, model = _recipe(include=["re:.*up_proj"]), tiny_model("llama")
    torch.nn.init.zeros_(model.model.layers[0].mlp.up_proj.weight)
    with pytest.raises(ValueError, match=r"model\.layers\.0: matching has nothing to train \(mlp\.up_proj"):
        compress(model, recipe, tokens=_TOKENS)


def test_matching_needs_data() -> None:
    with pytest.raises(ValueError, match="matching needs calibration data"):
        compress(tiny_model("llama"), _recipe(method="magnitude"))
    short = {"windows": 1, "window_tokens": 16}
    with pytest.raises(ValueError, match="at least 2 calibration windows"):
        compress(tiny_model("llama"), _recipe(calibration=short), tokens=_TOKENS)


@pytest.mark.parametrize("place", [(Stepper, "step"), (Stream, "outputs")])
def test_out_of_memory_says_what_to_lower(place: tuple[type, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(*place, full)
    with pytest.raises(MemoryError, match=r"matching 4 windows per step .* lower matching\.batch"):
        compress(tiny_model("llama"), _recipe(), tokens=_TOKENS)


@pytest.mark.parametrize(
    ("matching", "message"),
    [
        ({"epoch": 3}, "unknown key 'epoch'; did you mean 'epochs'"),
        ({"epochs": 0}, "matching.epochs"),
        ({"target": "teacher"}, "matching.target"),
        ({"holdout": 1.0}, "matching.holdout"),
    ],
)
def test_wrong_settings_are_named(matching: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("'", "['\"]?")):
        _recipe(matching)


def test_the_recipe_round_trips() -> None:
    assert _recipe(True).matching == Matching()
    assert _recipe(False).matching is None
    recipe = _recipe({"epochs": 3})
    assert Recipe.from_dict(recipe.model_dump()) == recipe


def test_the_plan_shows_matching() -> None:
    many = {"windows": 1000, "window_tokens": 64}
    without, with_it = (plan(tiny_model("llama"), _recipe(m, calibration=many)) for m in (False, _FAST))
    assert with_it.peak_bytes > without.peak_bytes
    assert "4 epochs over 938 windows" in with_it.matching
    assert without.matching == ""


def test_learning_rates_rise_then_fall() -> None:
    settings = Matching(epochs=10, learning_rate=0.5, warmup=0.1)
    rates = [rate_at(settings, step, 10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 * (i + 1) for i in range(10)])
    assert all(a >= b for a, b in pairwise(rates[9:]))
    assert rates[-1] < 0.03
    assert rate_at(Matching(schedule="constant", learning_rate=0.5), 100, 20) == 0.5


def test_held_batches_are_the_last_ones() -> None:
    assert [held_batches([4, 4, 2, 4, 2], windows) for windows in (2, 6, 16)] == [1, 2, 5]


def test_gradients_of_the_terms_are_those_of_autograd() -> None:
    s, u, v = torch.randn(6, 8), torch.randn(6, 2) * 30, torch.randn(2, 8) / 30
    s[:, ::2] = 0
    sparse, low_rank, target = SparseTerm(s, torch.float32), LowRankTerm(u, v), torch.randn(6, 8)
    torch.testing.assert_close(low_rank.added(sparse.added(None)), s + u @ v)
    assert torch.equal(sparse.values()[0], s)
    masters = [master.clone().requires_grad_() for term in (sparse, low_rank) for master in term.masters]
    scales = [float(values.norm() / master.detach().norm()) for values, master in zip((s, u, v), masters, strict=True)]
    weight = masters[0] * scales[0] + (masters[1] * scales[1]) @ (masters[2] * scales[2])
    (weight - target).square().sum().backward()
    dw = 2 * (s + u @ v - target)
    found = [*sparse.gradients(dw), *low_rank.gradients(dw)]
    torch.testing.assert_close(found[0], masters[0].grad * (s != 0))
    torch.testing.assert_close(found[1:], [master.grad for master in masters[1:]], rtol=1e-4, atol=1e-4)


def test_an_interrupted_run_goes_on_from_its_matched_blocks(tmp_path: Path) -> None:
    recipe, stops = _recipe({**_FAST, "norms": True}), []

    class Stop(Silent):
        def matched(self, record: MatchingRecord) -> None:
            stops.append(record.block)
            if len(stops) == 2:
                raise KeyboardInterrupt

    whole = compress(tiny_model("llama"), recipe, tokens=_TOKENS)
    with pytest.raises(KeyboardInterrupt):
        compress(tiny_model("llama"), recipe, tokens=_TOKENS, progress=Stop(), journal=tmp_path / "journal")
    resumed = compress(tiny_model("llama"), recipe, tokens=_TOKENS, journal=tmp_path / "journal")
    first, second = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [record.curve[-1].held_out for record in resumed.matching] == [r.curve[-1].held_out for r in whole.matching]
    assert resumed.matching[0].seconds != whole.matching[0].seconds


def test_sequential_layers_see_what_earlier_ones_became() -> None:
    both = [compress(tiny_model("llama"), _recipe(False, sequential=flag), tokens=_TOKENS) for flag in (False, True)]
    (plain, sequential), name = both, "model.layers.0.mlp.down_proj"
    assert torch.equal(*(r.model.get_submodule("model.layers.0.self_attn.v_proj").dense_weight() for r in both))
    x: list[torch.Tensor] = []
    model = sequential.model
    model.get_submodule(name).register_forward_pre_hook(lambda _m, args: x.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        model(input_ids=_TOKENS)
    w = tiny_model("llama").get_submodule(name).weight.detach()
    expected = relative_loss(w, model.get_submodule(name).dense_weight(), x[0].T @ x[0])
    records = [next(r for r in result.layers if r.name == name) for result in (plain, sequential)]
    assert records[1].relative_loss == pytest.approx(expected, rel=1e-4)
    assert records[0].relative_loss != pytest.approx(expected, rel=1e-4)
