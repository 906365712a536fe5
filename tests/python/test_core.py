"""The extension module: backends, threads, tracing, estimates."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

from sparlow import _core, decompose, methods
from sparlow.solve import backend_for, check_options, estimate


def has_cuda() -> bool:
    try:
        _core.make_backend("cuda")
    except RuntimeError:
        return False
    return True


def run_python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout.strip()


def test_the_cpu_backend_answers() -> None:
    assert _core.make_backend("cpu").name == "cpu"
    assert backend_for("cpu").name == "cpu"
    assert _core.__version__.count(".") == 2


@pytest.mark.skipif(has_cuda(), reason="this build has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_without_cuda_says_what_is_missing(device: str) -> None:
    with pytest.raises(RuntimeError, match=r"built without CUDA; build it with -DSPARLOW_CUDA=ON, or use device 'cpu'"):
        _core.make_backend(device)


@pytest.mark.parametrize("device", ["tpu", "", "CPU", "cpu:0"])
def test_unknown_devices(device: str) -> None:
    with pytest.raises(ValueError, match=f"unknown device '{device}'; accepted: 'cpu', 'cuda', 'cuda:N'"):
        _core.make_backend(device)


@pytest.mark.parametrize("device", ["cuda:", "cuda:-1", "cuda:x", "cuda:1.5"])
def test_malformed_device_numbers(device: str) -> None:
    with pytest.raises(ValueError, match="has no valid index"):
        _core.make_backend(device)


def test_a_torch_device_without_a_backend() -> None:
    with pytest.raises(ValueError, match="unknown device 'meta'"):
        decompose([torch.zeros(4, 4, device="meta")], None, method="magnitude", pattern="2:4", ranks=[0])


def test_pattern_attributes() -> None:
    pattern = _core.Pattern("2:8")
    assert (pattern.kind, pattern.n, pattern.m, pattern.density, str(pattern)) == ("nm", 2, 8, 0.25, "2:8")
    assert _core.Pattern("0.5@row").kept(3, 5) == 9
    assert _core.Pattern("dense").kind == "dense"
    with pytest.raises(ValueError, match="layer: d_in = 12 is not divisible by 8"):
        pattern.check_shape(4, 12, "layer")


def test_threads_can_be_changed_and_change_nothing_else(layer: Any) -> None:
    before = _core.num_threads()
    results = []
    try:
        for count in (1, 3):
            _core.set_num_threads(count)
            assert _core.num_threads() == count
            results.append(decompose([layer.w], layer.gram, method="wanda", pattern="0.5@matrix", ranks=[0])[0])
    finally:
        _core.set_num_threads(before)
    assert torch.equal(results[0].s, results[1].s)
    assert results[0].report.loss == results[1].report.loss
    with pytest.raises(ValueError, match=r"0 is outside \[1, 1024\]"):
        _core.set_num_threads(0)


@pytest.mark.parametrize(("value", "expected"), [("3", "3"), ("1", "1"), ("99999", "1024")])
def test_the_usual_environment_variable_sets_the_threads(value: str, expected: str) -> None:
    code = "from sparlow import _core; print(_core.num_threads())"
    assert run_python(code, OMP_NUM_THREADS=value) == expected


def test_nonsense_in_the_environment_variable_is_ignored() -> None:
    code = "from sparlow import _core; print(_core.num_threads() >= 1)"
    assert run_python(code, OMP_NUM_THREADS="many") == "True"


FORK = """
import os, sys, torch
from sparlow import _core, decompose
torch.set_num_threads(1)  # torch's own pool does not survive a fork
_core.set_num_threads(4)
w = torch.randn(512, 512)
solve = lambda: decompose([w], None, method="magnitude", pattern="2:4", ranks=[0])[0].s
parent = solve()
child = os.fork()
if child == 0:
    same = torch.equal(solve(), parent)
    try:
        _core.set_num_threads(2)
    except RuntimeError as error:
        same = same and "forked process" in str(error)
    sys.exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_works_without_the_parents_threads() -> None:
    assert run_python(FORK) == "0"


def test_concurrent_solves_are_those_of_one_thread(layer: Any) -> None:
    def solve(seed: int) -> torch.Tensor:
        return decompose([layer.w], layer.gram, method="threebasil", pattern="2:4", ranks=[4], seed=seed)[0].s

    expected = [solve(seed) for seed in range(4)]
    found: list[torch.Tensor | None] = [None] * 4

    def work(seed: int) -> None:
        found[seed] = solve(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is not None
        assert ((ours != 0) == (theirs != 0)).float().mean() > 0.999


def test_trace_counts_operations() -> None:
    trace = _core.Trace(_core.make_backend("cpu"))
    x, gram = torch.randn(10, 4), torch.zeros(4, 4)
    view = _core.View(gram.data_ptr(), 4, 4, 4)
    trace.backend.gram_update(_core.View(x.data_ptr(), 10, 4, 4), "float32", view)
    trace.backend.symmetrise(view)
    assert trace.counts["gram_update"]["calls"] == 1
    assert trace.counts["gram_update"]["flops"] == 10 * 4 * 4
    assert trace.counts["symmetrise"]["calls"] == 1
    torch.testing.assert_close(gram, x.T @ x)
    with pytest.raises(ValueError, match="dtype int8 is not float32, bfloat16 or float16"):
        trace.backend.gram_update(_core.View(x.data_ptr(), 10, 4, 4), "int8", view)


@pytest.mark.parametrize("method", [method.name for method in methods()])
def test_estimates_grow_with_the_layer_and_need_no_memory(method: str) -> None:
    small, large = (estimate(method, [(size, size, 0)], "2:4") for size in (1024, 16384))
    assert small["peak_bytes"] >= 2 * 4 * 1024 * 1024
    assert large["peak_bytes"] > 200 * small["peak_bytes"]
    assert large["flops"] >= small["flops"] > 0
    stacked = estimate(method, [(1024, 1024, 0)] * 3, "2:4")
    assert stacked["peak_bytes"] < 3 * small["peak_bytes"]


def test_estimates_refuse_what_a_run_refuses() -> None:
    with pytest.raises(ValueError, match="d_in = 6 is not divisible by 4"):
        estimate("wanda", [(4, 6, 0)], "2:4")
    with pytest.raises(ValueError, match="no weights"):
        estimate("wanda", [], "2:4")
    with pytest.raises(ValueError, match="unknown method"):
        estimate("wandering", [(4, 8, 0)], "2:4")


def test_options_get_their_defaults() -> None:
    values = check_options("threebasil", {"iterations": 5})
    assert values["iterations"] == 5
    assert set(values) > {"iterations"}
    assert check_options("magnitude", {}) == {}
