"""Layers that are fitted to the dense model's outputs on its own inputs: the target, its measuring, the whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_helpers import tiny_model
from families import tiny_model as family_model
from tiny_folder import tiny_llama

import sparlow
from sparlow.drift import DenseStream
from sparlow.models import find_blocks, replace_module, select_linears
from sparlow.solve import Damping, retarget
from sparlow.stream import Stream

WINDOWS = torch.randint(3, 60, (8, 32), generator=torch.Generator().manual_seed(0))


def recipe(**changes: Any) -> sparlow.Recipe:
    data: dict[str, Any] = {"rank": 2, "calibration": {"windows": 8, "window_tokens": 32, "batch": 4}}
    return sparlow.Recipe.from_dict({**data, **changes})


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("dead", [False, True])
def test_the_target_is_the_minimiser(share: float, dead: bool) -> None:
    """Least squares of the mixed outputs on the drifted inputs, damping drawing towards w, by NumPy."""
    random = np.random.default_rng(3)
    x = random.standard_normal((200, 24)) @ random.standard_normal((24, 24))
    y = x + 0.3 * random.standard_normal(x.shape)
    if dead:
        y[:, 5] = 0
    weights = [random.standard_normal((rows, 24)) for rows in (16, 10)]
    gram = y.T @ y
    damped = gram + np.diag(0.01 * np.diag(gram) + 0.02 * np.diag(gram)[np.diag(gram) > 0].mean())
    found = retarget(
        [torch.tensor(w, dtype=torch.float32) for w in weights],
        torch.tensor(gram, dtype=torch.float32),
        torch.tensor((x - y).T @ y, dtype=torch.float32),
        damping=Damping(0.01, 0.02),
        share=share,
    )
    live = np.diag(gram) > 0
    for w, z in zip(weights, found, strict=True):
        outputs = share * x @ w.T + (1 - share) * y @ w.T
        moved = np.zeros_like(w)
        moved[:, live] = np.linalg.solve(damped[np.ix_(live, live)], (y.T @ (outputs - y @ w.T))[live]).T
        np.testing.assert_allclose(z.numpy(), w + moved, atol=2e-4 * np.abs(w + moved).max())
        if dead or share == 0:
            np.testing.assert_array_equal(
                z.numpy()[:, ~live | (share == 0)], w.astype(np.float32)[:, ~live | (share == 0)]
            )


def test_retarget_refuses_what_does_not_fit() -> None:
    w, gram = torch.randn(4, 6), torch.eye(6)
    with pytest.raises(ValueError, match="the drift is 5 x 5, the Gram matrix 6 x 6"):
        retarget([w], gram, torch.eye(5), damping=Damping(), share=1)
    with pytest.raises(ValueError, match="a weight has 7 inputs, the Gram matrix 6"):
        retarget([torch.randn(4, 7)], gram, torch.eye(6), damping=Damping(), share=1)
    with pytest.raises(ValueError, match=r"the share 1.5 is outside \[0, 1\]"):
        retarget([w], gram, torch.eye(6), damping=Damping(), share=1.5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_the_drift_is_that_of_the_inputs(family: str) -> None:
    """After the first block was damaged, against inputs recorded from two whole models."""
    model, dense = family_model(family), family_model(family)
    blocks = find_blocks(model)
    stream = Stream(model, blocks, WINDOWS % 60, batch=3, dtype=torch.float32, device="cpu")
    beside = DenseStream(stream)
    chosen = select_linears(blocks, [], [], [])
    beside.measure(0, groups := stream.grams(0, chosen[0]))
    assert all(group.drift is not None and not group.drift.any() for group in groups)  # nothing has drifted yet
    for layer in chosen[0]:
        damaged = copy.deepcopy(layer.module)
        damaged.weight.data *= 0.7
        replace_module(model, layer.name, damaged)
    stream.advance(0)
    groups = stream.grams(1, chosen[1])
    beside.measure(1, groups)
    for group in groups:
        name = group.layers[0].name
        y, x = (_inputs(m, name) for m in (model, dense))
        torch.testing.assert_close(group.drift, (x - y).T @ y, rtol=1e-3, atol=1e-4)
        assert group.drift is not None
        assert group.drift.abs().max() > 1e-3
    beside.advance(2)
    torch.testing.assert_close(torch.cat(beside._hidden), _outputs(dense, blocks[2].name), rtol=1e-4, atol=1e-4)


def _inputs(model: Any, name: str) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda *call: seen.append(call[1][0]))
    with torch.no_grad():
        model(input_ids=WINDOWS % 60)
    handle.remove()
    return seen[0].reshape(-1, seen[0].shape[-1])


def _outputs(model: Any, name: str) -> torch.Tensor:
    seen: list[Any] = []
    handle = model.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        model(input_ids=WINDOWS % 60)
    handle.remove()
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]


def test_a_repaired_layer_gives_more_nearly_what_the_dense_model_does() -> None:
    """The first block is the same either way; behind it q is compared with the dense model's on its own inputs."""
    dense, name = tiny_llama(2).float(), "model.layers.1.self_attn.q_proj"
    weight, x = dense.get_submodule(name).weight, _inputs(dense, name)
    errors = {}
    for share in (0.0, 0.5, 1.0):
        chosen = recipe(
            repair=share,
            pattern="0.9@row",
            overrides=[{"match": "re:.*layers.0.*", "pattern": "2:4", "rank": 0}],
            dtype="float32",
        )
        done = sparlow.compress(tiny_llama(2), chosen, tokens=WINDOWS)
        z = done.model.get_submodule(name).dense_weight()
        errors[share] = float((_inputs(done.model, name) @ z.T - x @ weight.T).detach().square().sum())
    assert errors[1.0] < errors[0.5] < errors[0.0]
    assert errors[1.0] < 0.8 * errors[0.0]


def test_the_first_block_has_nothing_to_repair() -> None:
    plain, repaired = (
        sparlow.compress(tiny_model(), recipe(repair=share), tokens=WINDOWS).model.state_dict() for share in (0, 1)
    )
    names = [name for name in plain if "layers." in name]
    same = {name: torch.equal(plain[name], repaired[name]) for name in names}
    assert all(same[name] for name in names if "layers.0." in name)
    assert not all(same[name] for name in names if "layers.1." in name and "packed" in name)


def test_an_interrupted_repair_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    class Stop(sparlow.records.Silent):
        def block(self, index: int) -> None:
            if index == 2:
                raise KeyboardInterrupt

    def run(**more: Any) -> dict[str, torch.Tensor]:
        done = sparlow.compress(tiny_llama(3), recipe(repair=0.5), tokens=WINDOWS, **more)
        return dict(done.model.state_dict())

    with pytest.raises(KeyboardInterrupt):
        run(journal=tmp_path / "kept", progress=Stop())
    resumed, whole = run(journal=tmp_path / "kept"), run()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repair": 1.5}, "repair: .*less than or equal to 1"),
        ({"repair": 0.5, "sequential": True}, "sequential has replaced part of it by then; use one of them"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_repair_needs_data() -> None:
    with pytest.raises(ValueError, match="repair needs calibration data"):
        sparlow.compress(tiny_model(), recipe(method="magnitude", rank=0, repair=0.5))
